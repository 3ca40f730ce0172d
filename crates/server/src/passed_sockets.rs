//! Sockets that systemd has opened and passes on: they stay open while the server restarts, so that nobody is refused.
//! See `systemd.socket(5)` and `sd_listen_fds(3)`.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context as _, bail};

use crate::config::Listen;

/// Sockets to listen on that came from outside, until each is taken.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    /// `FileDescriptorName=` of the socket unit.
    name: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Passed {
    fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Udp(socket) => socket.local_addr().ok(),
        }
    }

    /// It is what is called so, or it has the port that is to be listened on.
    fn is_for(&self, name: &str, listen: Listen) -> bool {
        let Listen::At(wanted) = listen else { return false };
        self.name == name || wanted.port() != 0 && self.address().is_some_and(|address| address.port() == wanted.port())
    }
}

impl PassedSockets {
    /// Takes what this process was started with: none where it was started otherwise.
    ///
    /// # Errors
    /// A file descriptor that is neither a listening TCP socket nor a UDP socket.
    pub fn take() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut fds = listenfd::ListenFd::from_env();
        let mut passed = Vec::new();
        for index in 0..fds.len() {
            let socket = if let Ok(Some(listener)) = fds.take_tcp_listener(index) {
                listener.set_nonblocking(true)?;
                Socket::Tcp(listener)
            } else if let Ok(Some(socket)) = fds.take_udp_socket(index) {
                socket.set_nonblocking(true)?;
                Socket::Udp(socket)
            } else {
                bail!(
                    "the socket unit passes something that is neither TCP nor UDP: write ListenStream= or ListenDatagram= with a port"
                );
            };
            passed.push(Passed { name: names.next().unwrap_or_default(), socket });
        }
        Ok(Self(passed))
    }

    /// The TCP listener that was passed for this address.
    pub(crate) fn tcp(&mut self, name: &str, listen: Listen) -> Option<TcpListener> {
        match self.find(name, listen, |socket| matches!(socket, Socket::Tcp(_)))? {
            Socket::Tcp(listener) => Some(listener),
            Socket::Udp(_) => None,
        }
    }

    /// The UDP socket that was passed for this address.
    pub(crate) fn udp(&mut self, name: &str, listen: Listen) -> Option<UdpSocket> {
        match self.find(name, listen, |socket| matches!(socket, Socket::Udp(_)))? {
            Socket::Udp(socket) => Some(socket),
            Socket::Tcp(_) => None,
        }
    }

    fn find(&mut self, name: &str, listen: Listen, is_kind: fn(&Socket) -> bool) -> Option<Socket> {
        let index = self.0.iter().position(|passed| is_kind(&passed.socket) && passed.is_for(name, listen))?;
        Some(self.0.swap_remove(index).socket)
    }

    /// Everything that was passed has been taken.
    ///
    /// # Errors
    /// Which socket nothing listens on: its peers would wait for ever.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Some(left) = self.0.first() else { return Ok(()) };
        let (kind, unit) = match left.socket {
            Socket::Tcp(_) => ("TCP", "ListenStream"),
            Socket::Udp(_) => ("UDP", "ListenDatagram"),
        };
        let address = left.address().context("a passed socket has no address")?;
        bail!(
            "a {kind} socket on {address} was passed (named '{}'), and nothing is configured to listen on that port: set the same port in [listen], or take {unit}= out of the socket unit",
            left.name
        )
    }
}
