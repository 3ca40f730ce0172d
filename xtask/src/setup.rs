//! Installs what is missing, quietly; says nothing when there is nothing to do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::root;

/// Program to look for, and the Debian package that has it.
const FOR_RUN: [(&str, &str); 1] = [("ffmpeg", "ffmpeg")];
const FOR_TEST: [(&str, &str); 15] = [
    ("curl", "curl"),
    ("ffmpeg", "ffmpeg"),
    ("ffprobe", "ffmpeg"),
    ("ffplay", "ffmpeg"),
    ("rtmpdump", "rtmpdump"),
    ("srt-live-transmit", "srt-tools"),
    ("chromium", "chromium"),
    ("firefox-esr", "firefox-esr"),
    ("varnishd", "varnish"),
    ("openssl", "openssl"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("gst-launch-1.0", "gstreamer1.0-tools"),
    ("nft", "nftables"), // loses packets of TCP
];
const FOR_BENCH: [(&str, &str); 6] = [
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("srt-live-transmit", "srt-tools"),
];
const NGINX_RTMP: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
/// To build libsrt from Debian's source package: its own binary has no socket groups.
const FOR_BONDING: [(&str, &str); 4] =
    [("cmake", "cmake"), ("make", "make"), ("g++", "g++"), ("pkg-config", "pkg-config")];
const OPENSSL_HEADER: &str = "/usr/include/openssl/ssl.h";
const FOR_OBS: [(&str, &str); 2] = [("obs", "obs-studio"), ("Xvfb", "xvfb")];
/// GStreamer's elements are files, not programs.
const GSTREAMER_ELEMENTS: &str = "/usr/lib/x86_64-linux-gnu/gstreamer-1.0/libgstrtmp2.so";
const GSTREAMER_PACKAGES: [&str; 4] =
    ["gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good", "gstreamer1.0-plugins-bad", "gstreamer1.0-plugins-ugly"];
/// A current FFmpeg, with Enhanced RTMP, ships inside this package.
const CURRENT_FFMPEG: &str = "imageio-ffmpeg==0.8.1";

pub(crate) fn for_run() -> anyhow::Result<()> {
    packages(&missing(&FOR_RUN))
}

pub(crate) fn for_test() -> anyhow::Result<()> {
    let mut wanted = missing(&FOR_TEST);
    if !Path::new(GSTREAMER_ELEMENTS).exists() {
        wanted.extend(GSTREAMER_PACKAGES);
    }
    packages(&wanted)?;
    node_modules()?;
    current_ffmpeg()?;
    bonding_srt()
}

pub(crate) fn for_bench() -> anyhow::Result<()> {
    let mut wanted = missing(&FOR_BENCH);
    if !Path::new(NGINX_RTMP).exists() {
        wanted.push("libnginx-mod-rtmp");
    }
    packages(&wanted)
}

pub(crate) fn for_obs() -> anyhow::Result<()> {
    packages(&missing(&FOR_OBS))
}

fn missing(wanted: &[(&str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        wanted.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|folder| folder.join(program).exists())
}

/// Installs Debian packages, as root or through sudo.
fn packages(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    let apt = |arguments: &[&str]| {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root {
            command.args(["--", "apt-get"]);
        }
        quiet(
            command
                .args(["-qq", "-y", "--no-install-recommends"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt(&["update"])?;
    apt(&[&["install"][..], packages].concat())
}

/// Runs a command; shows what it printed only if it failed.
fn quiet(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&text));
    }
    Ok(())
}

/// The packages that drive browsers, below `target`.
fn node_modules() -> anyhow::Result<()> {
    let (source, folder) = (root().join("crates/testkit/tools"), root().join("target/tools"));
    let lock = std::fs::read(source.join("package-lock.json"))?;
    let done = folder.join("node_modules/.installed");
    if std::fs::read(&done).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    println!("installing what drives browsers");
    std::fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(source.join(file), folder.join(file))?;
    }
    quiet(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder))?;
    Ok(std::fs::write(done, lock)?)
}

/// A current FFmpeg, below `target`.
fn current_ffmpeg() -> anyhow::Result<()> {
    let folder = root().join("target/tools");
    let link = folder.join("ffmpeg-current");
    if link.exists() {
        return Ok(());
    }
    println!("installing a current FFmpeg");
    let packages = folder.join("python");
    let module =
        Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|output| output.status.success());
    if !module {
        self::packages(&["python3-pip"])?;
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&packages)
        .arg(CURRENT_FFMPEG);
    quiet(&mut pip)?;
    let binaries = packages.join("imageio_ffmpeg/binaries");
    let binary = std::fs::read_dir(&binaries)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("ffmpeg-"))
        .context("the package holds no ffmpeg")?;
    let _ = std::fs::remove_file(&link);
    Ok(std::os::unix::fs::symlink(binary.path(), link)?)
}

/// libsrt's own test program with socket groups, below `target`.
fn bonding_srt() -> anyhow::Result<()> {
    let folder = root().join("target/tools/srt");
    let program = root().join("target/tools/srt-test-live");
    if program.exists() {
        return Ok(());
    }
    let mut wanted = missing(&FOR_BONDING);
    if !Path::new(OPENSSL_HEADER).exists() {
        wanted.push("libssl-dev");
    }
    packages(&wanted)?;
    println!("building libsrt with socket groups");
    let _ = std::fs::remove_dir_all(&folder);
    let lists = folder.join("lists/partial");
    std::fs::create_dir_all(&lists)?;
    source_package("srt", &folder)?;
    let archive = file_in(&folder, |name| name.ends_with(".orig.tar.gz"))?;
    quiet(Command::new("tar").arg("xf").arg(archive).current_dir(&folder))?;
    let source = file_in(&folder, |name| name.starts_with("srt-"))?;
    let switches = ["ENABLE_BONDING=ON", "ENABLE_TESTING=ON", "ENABLE_SHARED=OFF", "USE_ENCLIB=openssl"];
    let build = folder.join("build");
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(source).arg("-B").arg(&build).args(switches.map(|switch| format!("-D{switch}")));
    quiet(&mut cmake)?;
    quiet(Command::new("make").args(["-j2", "srt-test-live"]).current_dir(&build))?;
    std::fs::copy(build.join("srt-test-live"), program)?;
    Ok(std::fs::remove_dir_all(folder)?)
}

fn file_in(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> anyhow::Result<PathBuf> {
    let found = std::fs::read_dir(folder)?.flatten().find(|entry| is_wanted(&entry.file_name().to_string_lossy()));
    found.map(|entry| entry.path()).with_context(|| format!("something is missing in {}", folder.display()))
}

/// Downloads a source package of Debian from where this machine has its packages from.
fn source_package(name: &str, folder: &Path) -> anyhow::Result<()> {
    let (list, parts) = (folder.join("sources.list"), folder.join("sources.list.d"));
    std::fs::create_dir_all(&parts)?;
    let of = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let lines = of("/etc/apt/sources.list");
    // Mirrors often carry the sources of the release alone, and a test program needs no others.
    let is_of_release = |text: &&str| !text.contains("security");
    let lines = lines.lines().filter(is_of_release).filter_map(|line| line.strip_prefix("deb "));
    let lines: Vec<String> = lines.map(|rest| format!("deb-src {rest}")).collect();
    std::fs::write(&list, lines.join("\n") + "\n")?;
    let stanzas = of("/etc/apt/sources.list.d/debian.sources").replace("Types: deb\n", "Types: deb-src\n");
    let stanzas: Vec<&str> = stanzas.split("\n\n").filter(is_of_release).collect();
    std::fs::write(parts.join("debian.sources"), stanzas.join("\n\n") + "\n")?;
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    let options = [
        option("Dir::Etc::SourceList", &list),
        option("Dir::Etc::SourceParts", &parts),
        option("Dir::State::Lists", &folder.join("lists")),
    ];
    for action in [&["update"][..], &["source", "--download-only", name]] {
        let mut apt = Command::new("apt-get");
        apt.arg("-qq").args(options.iter().flat_map(|option| ["-o", option])).args(action).current_dir(folder);
        quiet(&mut apt)?;
    }
    Ok(())
}
