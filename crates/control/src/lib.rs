//! The control plane: keys and what must survive a restart, the API, health, metrics.
//!
//! Secrets that are only verified are stored as SHA-256 of at least 128 random bits and looked up by hash.

mod api;
mod store;

pub use api::{
    Api, DeliveryFigures, DrainRequest, EventView, KeyView, LegView, PlaybackView, StreamView, openapi_json,
};
pub use store::{EraRow, KeyPurpose, KeyRecord, NewKey, Store, StoreError};
