//! `[[webhook]]`: programs that are told what happens.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::contribution::secret;
use crate::webhooks::Webhook;

/// Key of signatures, in bytes. spec: Standard Webhooks §Signature scheme
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// `[[webhook]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookTable {
    /// Address that events are sent to.
    pub url: String,
    /// Key of signatures: `whsec_` and 24–64 bytes in base64; `env:NAME` takes it from the environment, `file:PATH` from a file.
    pub secret: String,
    /// Kinds of events, such as `stream.switched`. Default: those of streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Of these streams only. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// The address may be one of this machine or of a private network.
    #[serde(default)]
    pub allow_private: bool,
}

impl WebhookTable {
    pub(super) fn webhook(&self) -> Result<Webhook, ConfigError> {
        let wrong = |key: &'static str, error: String| ConfigError::Secret { key, error };
        let url = self.url.parse().map_err(|error: viewer::url::UrlError| wrong("webhook.url", error.to_string()))?;
        let text = secret("webhook.secret", &self.secret)?;
        let form = || wrong("webhook.secret", "write whsec_ and 24 to 64 random bytes in base64".into());
        let encoded = text.strip_prefix("whsec_").ok_or_else(form)?;
        let secret =
            BASE64_STANDARD.decode(encoded).ok().filter(|key| SECRET_BYTES.contains(&key.len())).ok_or_else(form)?;
        let known = hub::EventKind::ALL.map(hub::EventKind::as_str);
        if let Some(unknown) = self.events.iter().find(|kind| !known.contains(&kind.as_str())) {
            return Err(wrong(
                "webhook.events",
                format!("'{unknown}' is no kind of event; there are {}", known.join(", ")),
            ));
        }
        let name = |text: &String| {
            text.parse().map_err(|error: media::InvalidName| wrong("webhook.streams", format!("'{text}': {error}")))
        };
        let streams = self.streams.iter().map(name).collect::<Result<BTreeSet<_>, _>>()?;
        let events = self.events.iter().cloned().collect();
        Ok(Webhook { url, secret, events, streams, allows_private: self.allow_private })
    }

    /// Without what is secret.
    pub(super) fn redact(&mut self) {
        "(set, not shown)".clone_into(&mut self.secret);
    }
}
