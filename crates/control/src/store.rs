//! SQLite: keys, the operator's token, era records. Reads come from memory; one thread writes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use media::{Playback, StreamKey, StreamName};
use parking_lot::RwLock;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use crate::api::EventView;

/// Name of the database in the state directory.
const DATABASE: &str = "throughline.db";
/// Writes that may wait: 2,000 streams that all begin at once, twice.
const QUEUE: usize = 4096;
/// Letters of keys: no vowels, nothing that looks like something else. 32 of them hold 5 bits each.
const ALPHABET: &[u8; 32] = b"0123456789bcdfghjkmnpqrstvwxyzBC";
/// Random bits of a key: 160.
const KEY_LETTERS: usize = 32;

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA busy_timeout = 5000;
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY, stream TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, created_utc INTEGER NOT NULL,
        purpose TEXT NOT NULL DEFAULT 'publish', rank INTEGER NOT NULL DEFAULT 0) STRICT;
    CREATE TABLE IF NOT EXISTS events (
        number INTEGER PRIMARY KEY, utc_nanos INTEGER NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, leg INTEGER,
        reason TEXT, text TEXT NOT NULL, gap_ms INTEGER, units_lost INTEGER) STRICT;
    CREATE INDEX IF NOT EXISTS events_of_a_stream ON events (stream, number);
    CREATE INDEX IF NOT EXISTS states_of_a_stream ON events (stream, number)
        WHERE kind IN ('stream.live', 'stream.lost', 'stream.ended');
    CREATE TABLE IF NOT EXISTS playback (stream TEXT PRIMARY KEY, playback TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS eras (
        stream TEXT PRIMARY KEY, broadcast TEXT NOT NULL, highest_number INTEGER NOT NULL,
        discontinuities INTEGER NOT NULL, is_ended INTEGER NOT NULL) STRICT;
";

/// A database from before keys had a purpose.
const ADD_PURPOSE: &str = "ALTER TABLE keys ADD COLUMN purpose TEXT NOT NULL DEFAULT 'publish'";

/// A database from before keys had a rank.
const ADD_RANK: &str = "ALTER TABLE keys ADD COLUMN rank INTEGER NOT NULL DEFAULT 0";

/// Forgets all events but the newest, so many, and the last word on each stream that has not ended: a server that comes later goes by it.
const FORGET: &str = "
    DELETE FROM events WHERE number <= (SELECT number FROM events ORDER BY number DESC LIMIT 1 OFFSET ?1)
        AND (kind NOT IN ('stream.live', 'stream.lost') OR EXISTS (
        SELECT 1 FROM events AS later WHERE later.stream = events.stream AND later.number > events.number
            AND later.kind IN ('stream.live', 'stream.lost', 'stream.ended')))";

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The state directory cannot be used.
    #[error("state directory {path}: {error}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The database cannot be used.
    #[error("database in the state directory: {0}")]
    Database(#[from] rusqlite::Error),
    /// The thread that writes is gone.
    #[error("the database is closed")]
    Closed,
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// To publish the stream.
    #[default]
    Publish,
    /// To watch the stream where it is not open to everybody.
    Play,
}

impl KeyPurpose {
    /// `publish` or `play`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
        }
    }
}

/// A key as it is kept: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Names the key in lists and logs.
    pub id: String,
    /// The stream it is for.
    pub stream: StreamName,
    /// Seconds since 1970, UTC.
    pub created_utc: i64,
    /// What it is good for.
    pub purpose: KeyPurpose,
    /// The rank of legs that come with it: 0 is preferred.
    pub rank: u8,
}

/// A key that was just made: the only time the secret is seen.
#[derive(Debug)]
pub struct NewKey {
    /// What is kept.
    pub record: KeyRecord,
    /// The secret, for its owner.
    pub secret: StreamKey,
}

/// Events that are kept.
const EVENTS_MAX: i64 = 10_000;
/// Events that may have been told and are not written yet when the server is killed: as many as wait in memory.
const UNWRITTEN_MAX: i64 = 4096;

/// Where a broadcast stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EraRow {
    /// Names the broadcast.
    pub broadcast: String,
    /// No segment above this number was ever published.
    pub highest_number: u64,
    /// Discontinuities so far.
    pub discontinuities: u64,
    /// The playlist was ended.
    pub is_ended: bool,
}

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The store of one state directory.
#[derive(Debug)]
pub struct Store {
    jobs: SyncSender<Job>,
    keys: RwLock<HashMap<[u8; 32], KeyRecord>>,
    eras: RwLock<HashMap<StreamName, EraRow>>,
    /// Of the streams about which something was said.
    playback: RwLock<HashMap<StreamName, Playback>>,
    /// Hash of the operator's token.
    token: RwLock<Option<[u8; 32]>>,
}

impl Store {
    /// Opens the state directory, and makes it if it is not there. Readable by its owner only.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        make_private(directory).map_err(|error| StoreError::Directory { path: directory.into(), error })?;
        let connection = Connection::open(directory.join(DATABASE))?;
        connection.execute_batch(SCHEMA)?;
        if connection.prepare("SELECT purpose FROM keys").is_err() {
            connection.execute_batch(ADD_PURPOSE)?;
        }
        if connection.prepare("SELECT rank FROM keys").is_err() {
            connection.execute_batch(ADD_RANK)?;
        }
        let keys = load_keys(&connection)?;
        let eras = load_eras(&connection)?;
        let playback = load_playback(&connection)?;
        let token = connection
            .query_row("SELECT value FROM meta WHERE name = 'operator_token'", [], |row| row.get::<_, Vec<u8>>(0));
        let token = RwLock::new(token.ok().and_then(|hash| hash.try_into().ok()));
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || queue.into_iter().for_each(|job| job(&connection)))
            .map_err(|error| StoreError::Directory { path: directory.into(), error })?;
        let (keys, eras, playback) = (RwLock::new(keys), RwLock::new(eras), RwLock::new(playback));
        Ok(Self { jobs, keys, eras, playback, token })
    }

    /// Runs a write on the one thread that writes.
    fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<rusqlite::Result<T>> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = sender.send(write(connection));
        });
        let _ = self.jobs.try_send(job); // refused: the receiver sees a closed channel
        receiver
    }

    /// The operator's token, if this is the first start: it is shown once and kept as a hash.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn first_operator_token(&self) -> Result<Option<String>, StoreError> {
        let token = random_text(KEY_LETTERS);
        let hash = hash(&token);
        let insert = move |connection: &Connection| {
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('operator_token', ?1)", params![hash])
        };
        let rows = self.write(insert).await.map_err(|_| StoreError::Closed)??;
        if rows == 1 {
            *self.token.write() = Some(hash);
        }
        Ok((rows == 1).then_some(token))
    }

    /// Whether this is the operator's token.
    pub fn is_operator_token(&self, token: &str) -> bool {
        let hash = hash(token);
        // Comparing hashes of random values tells nothing by its timing.
        self.token.read().as_ref() == Some(&hash)
    }

    /// Makes a key for a stream.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn create_key(&self, stream: StreamName, purpose: KeyPurpose, rank: u8) -> Result<NewKey, StoreError> {
        let secret = random_text(KEY_LETTERS);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let created_utc = i64::try_from(created).unwrap_or(i64::MAX);
        let record = KeyRecord { id: random_text(8), stream, created_utc, purpose, rank };
        let (row, hash) = (record.clone(), hash(&secret));
        let insert = move |connection: &Connection| {
            connection.execute(
                "INSERT INTO keys (id, stream, hash, created_utc, purpose, rank) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![row.id, row.stream.as_str(), hash, row.created_utc, row.purpose.as_str(), row.rank],
            )
        };
        self.write(insert).await.map_err(|_| StoreError::Closed)??;
        self.keys.write().insert(hash, record.clone());
        Ok(NewKey { record, secret: StreamKey::new(secret) })
    }

    /// Revokes a key; `None` if there is none with this identifier.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn revoke_key(&self, id: &str) -> Result<Option<KeyRecord>, StoreError> {
        let found =
            self.keys.read().iter().find(|(_, record)| record.id == id).map(|(hash, record)| (*hash, record.clone()));
        let Some((hash, record)) = found else { return Ok(None) };
        let id = id.to_owned();
        let delete = move |connection: &Connection| connection.execute("DELETE FROM keys WHERE id = ?1", params![id]);
        self.write(delete).await.map_err(|_| StoreError::Closed)??;
        self.keys.write().remove(&hash);
        Ok(Some(record))
    }

    /// Keeps events; of all only the newest 10,000, and the last that says whether media flows of each stream that has not ended.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn add_events(&self, events: Vec<EventView>) -> Result<(), StoreError> {
        let insert = move |connection: &Connection| {
            let transaction = connection.unchecked_transaction()?; // taken back where it fails
            for event in &events {
                transaction.execute(
                    "INSERT OR REPLACE INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        event.number,
                        event.utc_ms.saturating_mul(1_000_000),
                        event.stream,
                        event.kind,
                        event.leg,
                        event.reason,
                        event.text,
                        event.gap_ms,
                        event.units_lost
                    ],
                )?;
            }
            transaction.execute(FORGET, [EVENTS_MAX])?;
            transaction.commit()
        };
        Ok(self.write(insert).await.map_err(|_| StoreError::Closed)??)
    }

    /// Events, the newest first: of one stream or of all, with numbers below `before`, at most `limit`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn events(
        &self,
        stream: Option<StreamName>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<EventView>, StoreError> {
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(
                "SELECT number, utc_nanos, stream, kind, leg, reason, text, gap_ms, units_lost FROM events
                 WHERE (?1 IS NULL OR stream = ?1) AND number < ?2 ORDER BY number DESC LIMIT ?3",
            )?;
            let stream = stream.as_ref().map(StreamName::as_str);
            let rows = statement.query_map(params![stream, before.unwrap_or(i64::MAX), limit], |row| {
                Ok(EventView {
                    number: row.get(0)?,
                    utc_ms: row.get::<_, i64>(1)? / 1_000_000,
                    stream: row.get(2)?,
                    kind: row.get(3)?,
                    leg: row.get(4)?,
                    reason: row.get(5)?,
                    text: row.get(6)?,
                    gap_ms: row.get(7)?,
                    units_lost: row.get(8)?,
                })
            })?;
            rows.collect()
        };
        Ok(self.write(read).await.map_err(|_| StoreError::Closed)??)
    }

    /// The number the next event must have, so that none is used twice, also of those that a killed server told and did not write.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub async fn next_event(&self) -> Result<u64, StoreError> {
        let reserve = |connection: &Connection| {
            let query = "SELECT MAX(COALESCE((SELECT MAX(number) + 1 FROM events), 0),
                                    COALESCE((SELECT CAST(CAST(value AS TEXT) AS INTEGER) FROM meta WHERE name = 'first_event'), 0))";
            let known: i64 = connection.query_row(query, [], |row| row.get(0))?;
            let next = known + UNWRITTEN_MAX;
            let replace = "INSERT OR REPLACE INTO meta VALUES ('first_event', ?1)";
            connection.execute(replace, [next.to_string().as_bytes()]).map(|_| next)
        };
        let next = self.write(reserve).await.map_err(|_| StoreError::Closed)??;
        Ok(u64::try_from(next).unwrap_or(0))
    }

    /// Streams that have not ended, as far as is known; whether it was told that they were lost; and when that was, or since when media
    /// flowed otherwise, in nanoseconds of UTC.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unended(&self) -> Result<Vec<(StreamName, bool, i64)>, StoreError> {
        let read = |connection: &Connection| {
            // The columns beside MAX are of the row that has it.
            let mut statement = connection.prepare(
                "SELECT stream, kind, utc_nanos, MAX(number) FROM events
                 WHERE kind IN ('stream.live', 'stream.lost', 'stream.ended') GROUP BY stream",
            )?;
            let rows =
                statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?)))?;
            rows.collect::<Result<Vec<(String, String, i64)>, _>>()
        };
        let rows = self.write(read).await.map_err(|_| StoreError::Closed)??;
        let unended = rows.into_iter().filter(|(_, kind, _)| kind != "stream.ended");
        Ok(unended.filter_map(|(name, kind, nanos)| Some((name.parse().ok()?, kind == "stream.lost", nanos))).collect())
    }

    /// All keys, by stream and age.
    pub fn keys(&self) -> Vec<KeyRecord> {
        let mut keys: Vec<KeyRecord> = self.keys.read().values().cloned().collect();
        keys.sort_by(|a, b| (&a.stream, a.created_utc, &a.id).cmp(&(&b.stream, b.created_utc, &b.id)));
        keys
    }

    /// The record of this secret, if it is a key.
    pub fn find_key(&self, secret: &StreamKey) -> Option<KeyRecord> {
        self.keys.read().get(&hash(secret.expose())).cloned()
    }

    /// Who may watch a stream: everybody, unless something else was said.
    pub fn playback(&self, stream: &StreamName) -> Playback {
        self.playback.read().get(stream).copied().unwrap_or_default()
    }

    /// Says who may watch a stream, whether it is there now or not. It holds for who comes from now on.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn set_playback(&self, stream: StreamName, playback: Playback) -> Result<(), StoreError> {
        let name = stream.clone();
        let set = move |connection: &Connection| {
            let row = params![name.as_str(), playback.as_str()];
            connection.execute("INSERT OR REPLACE INTO playback (stream, playback) VALUES (?1, ?2)", row)
        };
        self.write(set).await.map_err(|_| StoreError::Closed)??;
        self.playback.write().insert(stream, playback);
        Ok(())
    }

    /// Where the broadcast of a stream stands.
    pub fn era(&self, stream: &StreamName) -> Option<EraRow> {
        self.eras.read().get(stream).cloned()
    }

    /// Saves where a broadcast stands; the future is over when it is on disk.
    pub fn save_era(
        &self,
        stream: &StreamName,
        row: EraRow,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.eras.write().insert(stream.clone(), row.clone());
        let stream = stream.clone();
        let saving = self.write(move |connection| {
            connection.execute(
                "INSERT OR REPLACE INTO eras VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    stream.as_str(),
                    row.broadcast,
                    i64::try_from(row.highest_number).unwrap_or(i64::MAX),
                    i64::try_from(row.discontinuities).unwrap_or(i64::MAX),
                    row.is_ended
                ],
            )
        });
        async move { saving.await.map_err(|_| StoreError::Closed)?.map(drop).map_err(StoreError::from) }
    }
}

fn load_keys(connection: &Connection) -> Result<HashMap<[u8; 32], KeyRecord>, StoreError> {
    let mut statement = connection.prepare("SELECT hash, id, stream, created_utc, purpose, rank FROM keys")?;
    let rows = statement.query_map([], |row| {
        let is_play = row.get::<_, String>(4)? == KeyPurpose::Play.as_str();
        let purpose = if is_play { KeyPurpose::Play } else { KeyPurpose::Publish };
        Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get(3)?, purpose, row.get(5)?))
    })?;
    let mut keys = HashMap::new();
    for row in rows {
        let (hash, id, stream, created_utc, purpose, rank) = row?;
        if let (Ok(hash), Ok(stream)) = (hash.try_into(), stream.parse()) {
            keys.insert(hash, KeyRecord { id, stream, created_utc, purpose, rank });
        }
    }
    Ok(keys)
}

fn load_eras(connection: &Connection) -> Result<HashMap<StreamName, EraRow>, StoreError> {
    let mut statement =
        connection.prepare("SELECT stream, broadcast, highest_number, discontinuities, is_ended FROM eras")?;
    let rows = statement.query_map([], |row| {
        let number = |index| row.get::<_, i64>(index).map(|value| u64::try_from(value).unwrap_or(0));
        let (highest_number, discontinuities) = (number(2)?, number(3)?);
        let (broadcast, is_ended) = (row.get(1)?, row.get(4)?);
        Ok((row.get::<_, String>(0)?, EraRow { broadcast, highest_number, discontinuities, is_ended }))
    })?;
    let mut eras = HashMap::new();
    for row in rows {
        let (stream, era) = row?;
        if let Ok(stream) = stream.parse() {
            eras.insert(stream, era);
        }
    }
    Ok(eras)
}

fn load_playback(connection: &Connection) -> Result<HashMap<StreamName, Playback>, StoreError> {
    let mut statement = connection.prepare("SELECT stream, playback FROM playback")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut playback = HashMap::new();
    for row in rows {
        let (stream, text) = row?;
        if let Ok(stream) = stream.parse() {
            playback.insert(stream, text.parse().unwrap_or(Playback::Key)); // what we do not know is not open
        }
    }
    Ok(playback)
}

/// Makes a directory that only its owner can read.
fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn random_text(letters: usize) -> String {
    let mut bytes = vec![0; letters];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{}", char::from(ALPHABET[usize::from(byte % 32)]));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn keys_survive_a_restart_and_die_when_revoked() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("state");
        let stream: StreamName = "show".parse().expect("valid");
        runtime().block_on(async {
            let store = Store::open(&directory).expect("opens");
            let key = store.create_key(stream.clone(), KeyPurpose::Publish, 0).await.expect("writes");
            drop(store);

            let store = Store::open(&directory).expect("opens again");
            assert_eq!(store.find_key(&key.secret).expect("known").stream, stream);
            assert_eq!(store.find_key(&StreamKey::new("guess")), None);
            assert!(store.revoke_key(&key.record.id).await.expect("writes").is_some());
            assert_eq!(store.find_key(&key.secret), None);
            assert!(store.revoke_key("nothing").await.expect("writes").is_none());
            drop(store);
            assert_eq!(Store::open(&directory).expect("opens").keys(), []);
        });
    }

    #[test]
    fn who_may_watch_survives_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let stream: StreamName = "show".parse().expect("valid");
        let secret = runtime().block_on(async {
            let store = Store::open(folder.path()).expect("opens");
            assert_eq!(store.playback(&stream), Playback::Open);
            store.set_playback(stream.clone(), Playback::Key).await.expect("writes");
            store.create_key(stream.clone(), KeyPurpose::Play, 0).await.expect("writes").secret
        });
        let store = Store::open(folder.path()).expect("opens again");
        assert_eq!(store.playback(&stream), Playback::Key);
        assert_eq!(store.find_key(&secret).expect("known").purpose, KeyPurpose::Play);
    }

    fn event(number: i64) -> EventView {
        EventView {
            number,
            utc_ms: number,
            stream: if number % 2 == 0 { "even" } else { "odd" }.into(),
            kind: "stream.switched".into(),
            leg: Some(1),
            reason: Some("silent".into()),
            text: "text".into(),
            gap_ms: Some(500),
            units_lost: None,
        }
    }

    #[tokio::test]
    async fn events_survive_a_restart_and_keep_counting() {
        let folder = tempfile::tempdir().expect("temporary");
        let store = Store::open(folder.path()).expect("opens");
        assert_eq!(store.next_event().await.expect("reads"), 4096, "a server before it may have told some");
        store.add_events((0..6).map(event).collect()).await.expect("writes");
        drop(store);

        let store = Store::open(folder.path()).expect("opens");
        assert_eq!(store.next_event().await.expect("reads"), 2 * 4096);
        let odd = store.events(Some("odd".parse().expect("a name")), None, 2).await.expect("reads");
        assert_eq!(odd, [event(5), event(3)]);
        assert_eq!(store.events(None, Some(2), 10).await.expect("reads"), [event(1), event(0)]);
        store.add_events(vec![event(EVENTS_MAX + 3)]).await.expect("writes");
        let left = store.events(None, None, 100).await.expect("reads").len();
        assert_eq!(left, 7, "numbers that are left out push nothing out");
    }

    #[tokio::test]
    async fn however_much_others_tell_it_is_known_which_streams_have_not_ended() {
        let folder = tempfile::tempdir().expect("temporary");
        let store = Store::open(folder.path()).expect("opens");
        let told =
            [("a", "live"), ("a", "lost"), ("a", "live"), ("b", "live"), ("b", "ended"), ("c", "live"), ("c", "lost")];
        let told = (0..).zip(told).map(|(number, (stream, kind))| EventView {
            stream: stream.into(),
            kind: format!("stream.{kind}"),
            ..event(number)
        });
        store.add_events(told.collect()).await.expect("writes");
        let others = |numbers: std::ops::Range<i64>| store.add_events(numbers.map(event).collect());
        others(7..EVENTS_MAX + 100).await.expect("writes");
        others(EVENTS_MAX + 100..EVENTS_MAX + 101).await.expect("writes");
        let mut unended = store.unended().await.expect("reads");
        unended.sort();
        let expected = [("a", false, 2), ("c", true, 6)];
        assert_eq!(
            unended,
            expected.map(|(name, is_lost, ms)| (name.parse().expect("a name"), is_lost, ms * 1_000_000))
        );
        let count = store.events(None, None, u32::MAX).await.expect("reads").len();
        assert_eq!(i64::try_from(count), Ok(EVENTS_MAX + 2));

        let ended = EventView { stream: "a".into(), kind: "stream.ended".into(), ..event(EVENTS_MAX + 101) };
        store.add_events(vec![ended]).await.expect("writes");
        assert_eq!(store.unended().await.expect("reads").len(), 1);
        let count = store.events(None, None, u32::MAX).await.expect("reads").len();
        assert_eq!(i64::try_from(count), Ok(EVENTS_MAX + 1), "the last word on a is its end now");
    }

    #[test]
    fn keys_from_before_they_had_a_purpose_publish() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = Connection::open(folder.path().join(DATABASE)).expect("opens");
        old.execute_batch(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, stream TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
             created_utc INTEGER NOT NULL) STRICT",
        )
        .expect("makes");
        old.execute("INSERT INTO keys VALUES ('a', 'show', ?1, 7)", params![hash("secret")]).expect("writes");
        let record = Store::open(folder.path()).expect("opens").find_key(&StreamKey::new("secret")).expect("known");
        assert_eq!((record.created_utc, record.purpose), (7, KeyPurpose::Publish));
    }

    #[test]
    fn the_operators_token_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        runtime().block_on(async {
            let store = Store::open(folder.path()).expect("opens");
            let token = store.first_operator_token().await.expect("writes").expect("first start");
            assert_eq!(store.first_operator_token().await.expect("writes"), None);
            assert!(store.is_operator_token(&token));
            assert!(!store.is_operator_token("guess"));
        });
    }

    #[test]
    fn eras_survive_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let stream: StreamName = "show".parse().expect("valid");
        let row = EraRow { broadcast: "abc".into(), highest_number: 217_000_000, discontinuities: 3, is_ended: false };
        runtime().block_on(async {
            let store = Store::open(folder.path()).expect("opens");
            store.save_era(&stream, row.clone()).await.expect("writes");
        });
        assert_eq!(Store::open(folder.path()).expect("opens").era(&stream), Some(row));
    }
}
