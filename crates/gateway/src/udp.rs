//! MPEG transport streams over plain UDP, unicast and multicast, in and out. Whoever can send to the address is let in: it
//! belongs into networks that are one's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hub::{Item, Publisher, StreamState, Transport};
use media::StreamName;
use telemetry::{CloseReason, OpenSession, Protocol, catch_panic};
use tokio::net::UdpSocket;
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::srt::grow_buffers;
use crate::ts::{AHEAD_MAX, TOO_FAST, TsSink, TsSource};
use crate::{Gateway, arrival};

/// Largest datagram that is taken.
const DATAGRAM_BYTES_MAX: usize = 9000;
/// Seven packets fit a frame of Ethernet.
const PAYLOAD_BYTES: usize = 7 * 188;
/// How often figures are handed on, and a stream that is to be sent is looked for.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// spec: RFC 3550 §5.1
const RTP_VERSION: u8 = 0x80;
const RTP_HEADER_BYTES: usize = 12;
const SYNC_BYTE: u8 = 0x47;

/// A stream over plain UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpStream {
    /// The stream here.
    pub stream: StreamName,
    /// In: where it is received, a multicast group or an address of this machine. Out: where it is sent.
    pub address: SocketAddr,
    /// Address of the network interface whose multicast is joined; `None`: the system's choice.
    pub interface: Option<Ipv4Addr>,
    /// In: a source that sends nothing for so long is gone.
    pub silent_after: Duration,
    /// The rank of the leg: 0 is preferred.
    pub rank: u8,
}

/// Somebody sends to an input.
struct OpenInput {
    source: TsSource,
    report_at: Instant,
    counted: OpenSession,
}

impl Gateway {
    /// Receives a stream until shutdown.
    ///
    /// # Errors
    /// The address cannot be used, or the group not be joined.
    pub async fn receive_udp(&self, input: UdpStream) -> std::io::Result<SocketAddr> {
        let ip = input.address.ip();
        let bound = if ip.is_multicast() { SocketAddr::new(any(ip), input.address.port()) } else { input.address };
        let socket = UdpSocket::bind(bound).await?;
        match ip {
            IpAddr::V4(group) if group.is_multicast() => {
                socket.join_multicast_v4(group, input.interface.unwrap_or(Ipv4Addr::UNSPECIFIED))?;
            }
            IpAddr::V6(group) if group.is_multicast() => socket.join_multicast_v6(&group, 0)?,
            _ => {}
        }
        grow_buffers(&socket);
        let address = socket.local_addr()?;
        let gateway = self.clone();
        let span = info_span!("session", stream = %input.stream, protocol = "udp");
        let receiving = async move {
            while catch_panic(gateway.receive(&socket, &input)).await.is_err() {
                error!("the input panicked; it begins anew");
                tokio::time::sleep(REPORT_INTERVAL).await;
            }
        };
        self.tracker.spawn(receiving.instrument(span));
        Ok(address)
    }

    async fn receive(&self, socket: &UdpSocket, input: &UdpStream) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let received_bytes = self.metrics.received_bytes(Protocol::udp);
        let mut open: Option<OpenInput> = None;
        let mut asks_at = Instant::now();
        loop {
            let received = tokio::select! {
                () = self.shutdown.cancelled() => break,
                received = tokio::time::timeout(input.silent_after, socket.recv_from(&mut buffer)) => received,
            };
            let now = Instant::now();
            let Ok(received) = received else {
                self.end_udp(open.take(), CloseReason::timeout);
                continue;
            };
            let Ok((length, peer)) = received else { continue };
            received_bytes.inc_by(length as u64);
            let payload = payload(buffer.get(..length).unwrap_or_default());
            let OpenInput { source, report_at, .. } = match &mut open {
                Some(open) => open,
                None if now < asks_at => continue,
                None => match self.open_udp(input, peer) {
                    Some(opened) => open.insert(opened),
                    None => {
                        asks_at = now + REPORT_INTERVAL;
                        continue;
                    }
                },
            };
            let wrong = match (source.push(arrival(), payload), source.is_kicked()) {
                (Err(text), _) => Some((text, CloseReason::protocol_error)),
                (Ok(()), Some(text)) => Some((text, CloseReason::kicked)),
                (Ok(()), None) if source.ahead() > AHEAD_MAX => Some((TOO_FAST.into(), CloseReason::protocol_error)),
                (Ok(()), None) => None,
            };
            if let Some((text, reason)) = wrong {
                warn!(reason = text, "session closed by the server");
                self.end_udp(open.take(), reason);
                tokio::time::sleep(REPORT_INTERVAL).await;
            } else if now >= *report_at {
                *report_at = now + REPORT_INTERVAL;
                source.report(Transport::default(), Vec::new());
                source.count(&self.metrics);
            }
        }
        self.end_udp(open.take(), CloseReason::shutdown);
    }

    fn open_udp(&self, input: &UdpStream, peer: SocketAddr) -> Option<OpenInput> {
        if self.draining.borrow().is_some() {
            return None;
        }
        let publisher = Publisher {
            protocol: Protocol::udp.as_str(),
            peer: peer.to_string(),
            encoder: None,
            key_id: format!("udp {}", input.address),
            rank: input.rank,
            is_fetched: true,
        };
        match self.hub.publish(arrival(), &input.stream, publisher) {
            Ok(leg) => {
                info!(%peer, "publisher joined");
                let (counted, report_at) = (self.metrics.session(Protocol::udp), Instant::now() + REPORT_INTERVAL);
                Some(OpenInput { source: self.ts_source(leg), report_at, counted })
            }
            Err(_) => None, // somebody else publishes: it is asked again
        }
    }

    fn end_udp(&self, open: Option<OpenInput>, reason: CloseReason) {
        if let Some(OpenInput { mut source, counted, .. }) = open {
            source.count(&self.metrics);
            source.close(arrival());
            info!(?reason, "publisher left");
            counted.close(reason);
        }
    }

    /// Sends a stream whenever it is there, until shutdown.
    ///
    /// # Errors
    /// There is no socket to send from.
    pub async fn send_udp(&self, output: UdpStream) -> std::io::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::new(any(output.address.ip()), 0)).await?;
        let gateway = self.clone();
        let span = info_span!("send", stream = %output.stream, to = %output.address, protocol = "udp");
        let sending = async move {
            while !gateway.shutdown.is_cancelled() {
                let stream = gateway.hub.stream(&output.stream).filter(|stream| stream.state() != StreamState::Ended);
                if let Some(stream) = stream {
                    gateway.send(&socket, output.address, stream.subscribe()).await;
                }
                tokio::time::sleep(REPORT_INTERVAL).await;
            }
        };
        self.tracker.spawn(sending.instrument(span));
        Ok(())
    }

    async fn send(&self, socket: &UdpSocket, to: SocketAddr, mut subscriber: hub::Subscriber) {
        let mut sink = TsSink::default();
        loop {
            let entry = tokio::select! {
                () = self.shutdown.cancelled() => return,
                entry = subscriber.next() => entry,
            };
            if matches!(entry.item, Item::End) {
                return;
            }
            let mut packets = sink.packets(&entry);
            while !packets.is_empty() {
                let datagram = packets.split_to(packets.len().min(PAYLOAD_BYTES));
                // Nobody may be listening: that is no error of ours.
                let _ = socket.send_to(&datagram, to).await;
            }
        }
    }
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// What is in a datagram: packets, perhaps behind an RTP header.
fn payload(datagram: &[u8]) -> &[u8] {
    match (datagram.first(), datagram.get(RTP_HEADER_BYTES)) {
        (Some(first), Some(&SYNC_BYTE)) if first & 0xc0 == RTP_VERSION => {
            datagram.get(RTP_HEADER_BYTES..).unwrap_or_default()
        }
        _ => datagram,
    }
}
