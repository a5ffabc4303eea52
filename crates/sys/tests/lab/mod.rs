//! A node and a machine outside it, each a network namespace, joined by a wire; pods that are routed neighbours of
//! the node; and servers that say who asked. Shared by the live tests of several crates.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use sys::netlink::{
    Address, MacAddress, Netns, Route, RouteKind, RouteProtocol, RouteScope, Rtnetlink, Veth,
};

/// Long enough for a busy machine; a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) const NODE: &str = "192.0.2.1";
pub(crate) const CLIENT: &str = "192.0.2.2";
pub(crate) const GATEWAY: &str = "10.244.0.1";

pub(crate) struct Lab {
    pub(crate) node: Netns,
    pub(crate) client: Netns,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(destination: &str, gateway: Option<&str>, link: u32) -> Route {
    Route {
        kind: RouteKind::Unicast,
        destination: destination.parse().unwrap(),
        gateway: gateway.map(ip),
        link,
        source: None,
        onlink: gateway.is_some(),
        scope: if gateway.is_some() { RouteScope::Global } else { RouteScope::Link },
        protocol: RouteProtocol::BOOT,
    }
}

fn link(rt: &mut Rtnetlink, name: &str) -> u32 {
    rt.link(name).unwrap().unwrap().index
}

fn up(rt: &mut Rtnetlink, name: &str, net: &str) -> u32 {
    let index = link(rt, name);
    rt.add_address(&Address { link: index, net: net.parse().unwrap(), scope: 0 }).unwrap();
    rt.set_up(index).unwrap();
    index
}

impl Lab {
    /// A node (192.0.2.1) whose default route leads to a client (192.0.2.2) that has no route back.
    pub(crate) fn new() -> Self {
        let (node, client) = (Netns::anonymous().unwrap(), Netns::anonymous().unwrap());
        wire(&node, "eth0", &client, "eth0");
        let mut rt = Rtnetlink::open(&node).unwrap();
        let lo = link(&mut rt, "lo");
        rt.set_up(lo).unwrap();
        let eth0 = up(&mut rt, "eth0", "192.0.2.1/24");
        let mut outside = Rtnetlink::open(&client).unwrap();
        up(&mut outside, "eth0", "192.0.2.2/24");
        rt.replace_route(&route("0.0.0.0/0", Some(CLIENT), eth0)).unwrap();
        // Redirects would use up what the kernel grants a second to rejections.
        for (name, value) in [
            ("ip_forward", "1"),
            ("conf/all/send_redirects", "0"),
            ("conf/default/send_redirects", "0"),
            ("conf/eth0/send_redirects", "0"),
        ] {
            let path = format!("/proc/sys/net/ipv4/{name}");
            node.run(|| std::fs::write(path, value)).unwrap().unwrap();
        }
        Self { node, client }
    }

    /// The client sends what is for `destination` to the node.
    pub(crate) fn client_route(&self, destination: &str) {
        let mut rt = Rtnetlink::open(&self.client).unwrap();
        let eth0 = link(&mut rt, "eth0");
        rt.replace_route(&route(destination, Some(NODE), eth0)).unwrap();
    }

    /// A pod with an address of 10.244.0.0/16.
    pub(crate) fn pod(&self, address: &str) -> Netns {
        let pod = Netns::anonymous().unwrap();
        let name = format!("v{}", address.replace('.', "-").trim_start_matches("10-244-"));
        wire(&self.node, &name, &pod, "eth0");
        let mut rt = Rtnetlink::open(&self.node).unwrap();
        let lo = link(&mut rt, "lo");
        let net = format!("{GATEWAY}/32").parse().unwrap();
        rt.add_address(&Address { link: lo, net, scope: 0 }).unwrap();
        let host = link(&mut rt, &name);
        rt.set_up(host).unwrap();
        let mut inside = Rtnetlink::open(&pod).unwrap();
        let lo = link(&mut inside, "lo");
        inside.set_up(lo).unwrap();
        let eth0 = up(&mut inside, "eth0", &format!("{address}/32"));
        inside.replace_route(&route(&format!("{GATEWAY}/32"), None, eth0)).unwrap();
        inside.replace_route(&route("0.0.0.0/0", Some(GATEWAY), eth0)).unwrap();
        rt.replace_route(&route(&format!("{address}/32"), None, host)).unwrap();
        pod
    }
}

/// Joins two namespaces.
pub(crate) fn wire(here: &Netns, name: &str, there: &Netns, peer: &str) {
    let mac = |n: u8| {
        let sum = name.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        MacAddress([0x0a, 1, 1, 1, sum, n])
    };
    let veth = Veth {
        host: name,
        host_mac: mac(1),
        peer,
        peer_mac: mac(2),
        peer_namespace: there,
        mtu: 1500,
    };
    Rtnetlink::open(here).unwrap().create_veth(&veth).unwrap();
}

/// Answers each connection with `name` and the caller's address, for as long as the test runs.
pub(crate) fn serve_tcp(namespace: &Netns, address: &str, name: &str) {
    let listener = namespace.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let name = name.to_owned();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap();
            let _ = write!(stream, "{name} {}", peer.ip());
        }
    });
}

/// Answers each datagram with `name`.
pub(crate) fn serve_udp(namespace: &Netns, address: &str, name: &str) {
    let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    let name = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), peer);
        }
    });
}

/// What the server at `address` says, or the word for what went wrong.
pub(crate) fn ask_tcp(namespace: &Netns, address: &str) -> String {
    ask_tcp_within(namespace, address, PATIENCE)
}

/// The same, for an answer that is not expected to come.
pub(crate) fn ask_tcp_within(namespace: &Netns, address: &str, patience: Duration) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match namespace.run(ask).unwrap() {
        Ok(text) => text,
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// A client with a port of its own, so that several questions are one connection.
pub(crate) fn udp_client(namespace: &Netns) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn ask_udp(socket: &UdpSocket, address: &str) -> String {
    let ask = || -> io::Result<String> {
        socket.send_to(b"who", address)?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().unwrap_or_else(|error| format!("{:?}", error.kind()))
}
