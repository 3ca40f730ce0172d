//! The peer: nginx with its RTMP module making HLS, as its documentation shows it, and serving it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

use super::Running;

const MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";

/// A running nginx.
pub(super) struct Nginx {
    pub(super) server: Running,
    rtmp: u16,
    http: u16,
    https: u16,
    host: String,
    /// What it serves.
    pub(super) root: PathBuf,
}

impl Nginx {
    pub(super) fn publish_url(&self, stream: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{stream}", self.rtmp)
    }

    /// Host and port of its RTMP.
    pub(super) fn rtmp(&self) -> String {
        format!("127.0.0.1:{}", self.rtmp)
    }

    /// Host and port.
    pub(super) fn http(&self) -> String {
        format!("{}:{}", self.host, self.http)
    }

    /// Host and port, with TLS.
    pub(super) fn https(&self) -> String {
        format!("{}:{}", self.host, self.https)
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The kind of certificate that our server makes for local trials: P-256.
fn certificate(root: &Path) -> anyhow::Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(root.join("key.pem"))
        .arg("-out")
        .arg(root.join("cert.pem"));
    openssl.output().context("openssl")?;
    Ok(())
}

/// Starts it on the loopback interface with segments of `fragment_seconds`; `None` where it is not installed. One worker,
/// no log of requests.
pub(super) fn nginx(folder: &Path, fragment_seconds: u32) -> anyhow::Result<Option<Nginx>> {
    nginx_by(Command::new("nginx"), folder, fragment_seconds, "127.0.0.1")
}

/// `command` runs the program, perhaps elsewhere; HTTP is served at `host`.
pub(super) fn nginx_by(
    mut command: Command,
    folder: &Path,
    fragment_seconds: u32,
    host: &str,
) -> anyhow::Result<Option<Nginx>> {
    if !Path::new(MODULE).exists() {
        return Ok(None);
    }
    // In memory: a disk would be another question.
    let shared = Path::new("/dev/shm").join(folder.file_name().unwrap_or_default());
    let root = if Path::new("/dev/shm").exists() { shared } else { folder.join("nginx") };
    let hls = root.join("live");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&hls)?;
    // The browser's own player of HLS: what a page without a library gets.
    fs::write(root.join("watch.html"), "<video src=\"/live/clock.m3u8\" autoplay muted width=640 height=360></video>")?;
    let (rtmp, http, https, config) = (free_port()?, free_port()?, free_port()?, root.join("nginx.conf"));
    certificate(&root)?;
    let [hls, base, config_path] = [&hls, &root, &config].map(|path| path.display().to_string());
    let text = format!(
        "load_module {MODULE};\nuser root;\ndaemon off;\nmaster_process off;\npid {base}/nginx.pid;\nerror_log {base}/nginx.log;\n\
         worker_rlimit_nofile 20000;\nevents {{ worker_connections 16384; }}\n\
         rtmp {{ server {{ listen 127.0.0.1:{rtmp}; application live {{ live on; hls on; hls_path {hls}; \
         hls_fragment {fragment_seconds}s; hls_playlist_length 32s; }} }} }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; \
         types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; text/html html; }} \
         server {{ listen {host}:{http} backlog=16384; listen {host}:{https} ssl http2 backlog=16384; root {base}; \
         ssl_certificate {base}/cert.pem; ssl_certificate_key {base}/key.pem; ssl_protocols TLSv1.3; http2_max_requests 100000000; \
         location /watch/ {{ rewrite ^ /watch.html last; }} }} }}\n"
    );
    fs::write(&config, text)?;
    let server = command.arg("-c").arg(config_path).stderr(Stdio::null()).spawn().context("nginx")?;
    sleep(Duration::from_secs(1));
    Ok(Some(Nginx { server: Running(server), rtmp, http, https, host: host.to_owned(), root }))
}
