//! Plays over RTMP and RTMPS. spec: RTMP 1.0 §7.2.2.1

use std::time::{Duration, Instant};

use container::flv::Content;
use media::TrackKind;
use rtmp::{Address, ClientConfig, ClientEvent, ClientInput, ClientSession, Media, Output, Role};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{DirectPlayer, Teller};
use crate::client::HttpVersion;
use crate::watch::moment;

/// Most time to look up a name, to connect, and to agree on TLS, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 * 1024;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Plays until the stream ends or the time is over.
///
/// # Errors
/// In words: not reached, refused, or broken.
pub(super) async fn play(
    place: &Address,
    is_insecure: bool,
    player: &mut DirectPlayer,
    teller: &mut Teller<'_>,
) -> Result<(), String> {
    let mut socket = connect(place, is_insecure, player).await?;
    let config = ClientConfig {
        role: Role::Play,
        app: place.app.clone(),
        tc_url: place.tc_url(),
        name: place.name.clone(),
        nonce: [9; 32],
    };
    let mut session = ClientSession::new(Instant::now(), config);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let deadline = loop {
            match session.poll_output() {
                Output::Send(bytes) => socket.write_all(&bytes).await.map_err(|error| error.to_string())?,
                Output::Event(ClientEvent::Started) => player.accepted(moment()),
                Output::Event(ClientEvent::Media { time_nanos, media }) => on_media(player, time_nanos, &media),
                Output::Event(_) => {}
                Output::Wait(deadline) => break deadline,
            }
        };
        if teller.tell(player) {
            return Ok(());
        }
        let wake = teller.wake(player);
        let wake = deadline.map_or(wake, |deadline| deadline.min(wake));
        let input = tokio::select! {
            biased;
            count = socket.read(&mut buffer) => match count.map_err(|error| error.to_string())? {
                0 => return session.handle_input(Instant::now(), ClientInput::Eof).map_err(|error| error.to_string()),
                count => ClientInput::Received(buffer.get(..count).unwrap_or_default()),
            },
            () = tokio::time::sleep_until(wake.into()) => ClientInput::Timeout,
        };
        session.handle_input(Instant::now(), input).map_err(|error| error.to_string())?;
    }
}

fn on_media(player: &mut DirectPlayer, time_nanos: i64, media: &Media) {
    let (kind, content) = match media {
        Media::Video(packet) if packet.track_id == 0 => (TrackKind::Video, &packet.content),
        Media::Audio(packet) if packet.track_id == 0 => (TrackKind::Audio, &packet.content),
        Media::Video(_) | Media::Audio(_) => return,
    };
    if let Content::Unit { is_key, data, .. } = content {
        player.unit(moment(), kind, time_nanos, *is_key, data.len());
    }
}

async fn connect(place: &Address, is_insecure: bool, player: &mut DirectPlayer) -> Result<Box<dyn Duplex>, String> {
    let began = Instant::now();
    let millis = |since: Instant| u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX);
    let found = in_time("its name", tokio::net::lookup_host((&*place.host, place.port))).await?;
    let address = found.into_iter().next().ok_or_else(|| format!("{} has no address", place.host))?;
    let (dns_ms, asked) = (millis(began), Instant::now());
    let socket = in_time("connecting", TcpStream::connect(address)).await?;
    let _ = socket.set_nodelay(true);
    let (tcp_ms, asked) = (millis(asked), Instant::now());
    if !place.is_tls {
        player.connected(dns_ms, tcp_ms, 0);
        return Ok(Box::new(socket));
    }
    let name = rustls::pki_types::ServerName::try_from(place.host.to_string()).map_err(|error| error.to_string())?;
    let connector = crate::tls_connector(HttpVersion::Http1, is_insecure)?;
    let socket = in_time("TLS", connector.connect(name, socket)).await?;
    player.connected(dns_ms, tcp_ms, millis(asked));
    Ok(Box::new(socket))
}

async fn in_time<T>(what: &str, work: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    let done = tokio::time::timeout(STEP_TIMEOUT, work).await;
    done.map_err(|_| format!("{what} took more than {} s", STEP_TIMEOUT.as_secs()))?
        .map_err(|error| format!("{what}: {error}"))
}
