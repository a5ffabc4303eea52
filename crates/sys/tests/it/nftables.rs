//! Transactions, and what the kernel made of them.

use std::net::UdpSocket;

use sys::netlink::{Netns, Rtnetlink};
use sys::nftables::{
    BaseChain, Batch, ChainType, Conntrack, CtKey, DataType, Element, ElementData, Expr, Family,
    Hook, Key, KeyFields, MetaKey, Monitor, Name, Nftables, Reg, Set, SetData, SetFlags, Table,
    Verdict,
};

const TABLE: Table = Table { family: Family::Ip, name: "t" };
const KEY: &[DataType] = &[DataType::Ipv4Address, DataType::Protocol, DataType::Port];

fn set(name: &'static str, data: SetData) -> Set {
    Set { name: name.into(), key: KEY, data, flags: SetFlags::default(), size: None }
}

fn key(port: u16) -> Key {
    Key::new().ip([10, 0, 0, 1].into()).protocol(6).port(port)
}

#[test]
fn a_transaction_is_taken_whole_or_not_at_all() {
    let mut nft = Nftables::open(&Netns::anonymous().unwrap()).unwrap();
    let name: Name = "services".into();
    let mut batch = Batch::new();
    batch.add_table(&TABLE);
    batch.add_set(&TABLE, &set("services", SetData::Verdict));
    batch.add_chain(&TABLE, "one", None);
    let goto = || ElementData::Verdict(Verdict::Goto("one".into()));
    let elements: Vec<_> = (1..=5000).map(|port| Element::map(key(port), goto())).collect();
    batch.add_elements(&TABLE, &name, &elements);
    nft.apply(batch).unwrap();
    assert_eq!(nft.element_keys(&TABLE, "services").unwrap().len(), 5000);

    let mut batch = Batch::new();
    batch.delete_elements(&TABLE, &name, &elements[..10]);
    batch.delete_elements(&TABLE, &name, [&Element::key(key(6000))]);
    let error = nft.apply(batch).unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "could not delete elements of set services of table t");
    assert_eq!(nft.element_keys(&TABLE, "services").unwrap().len(), 5000);

    // In one transaction a key may change what it maps to.
    let mut batch = Batch::new();
    batch.delete_elements(&TABLE, &name, [&Element::key(key(1))]);
    let accept = Element::map(key(1), ElementData::Verdict(Verdict::Accept));
    batch.add_elements(&TABLE, &name, [&accept]);
    nft.apply(batch).unwrap();

    let mut batch = Batch::new();
    batch.remove_table(&TABLE);
    nft.apply(batch).unwrap();
    assert_eq!(nft.tables(Family::Ip).unwrap(), Vec::<String>::new());
}

#[test]
fn ranges_in_concatenations_are_accepted() {
    let mut nft = Nftables::open(&Netns::anonymous().unwrap()).unwrap();
    let mut batch = Batch::new();
    batch.add_table(&TABLE);
    let flags = SetFlags { interval: true, ..SetFlags::default() };
    batch.add_set(&TABLE, &Set { flags, ..set("ranges", SetData::None) });
    let mut element = Element::key(key(80));
    element.key_end = Some(key(90));
    batch.add_elements(&TABLE, &"ranges".into(), [&element]);
    nft.apply(batch).unwrap();
    assert_eq!(nft.element_keys(&TABLE, "ranges").unwrap(), [key(80)]);
}

#[test]
fn tracked_connections_are_listed_and_forgotten() {
    let namespace = Netns::anonymous().unwrap();
    let mut rt = Rtnetlink::open(&namespace).unwrap();
    let lo = rt.link("lo").unwrap().unwrap().index;
    rt.set_up(lo).unwrap();
    // Connections are tracked in a namespace once something in it asks for their state.
    let mut nft = Nftables::open(&namespace).unwrap();
    let mut batch = Batch::new();
    batch.add_table(&TABLE);
    let base = BaseChain { kind: ChainType::Filter, hook: Hook::Output, priority: 0 };
    batch.add_chain(&TABLE, "output", Some(base));
    let state = Expr::Ct { key: CtKey::State, direction: None, to: Reg(0) };
    let protocol = Expr::Meta { key: MetaKey::TransportProtocol, to: Reg(1) };
    batch.add_rule(&TABLE, "output", &[state, protocol, Expr::Counter]);
    nft.apply(batch).unwrap();
    assert_eq!(nft.rules(&TABLE).unwrap()[0].expressions, ["ct", "meta", "counter"]);
    namespace
        .run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", "127.0.0.1:5353").unwrap();
        })
        .unwrap();
    let mut conntrack = Conntrack::open(&namespace).unwrap();
    let to_5353 = |original: &sys::nftables::Tuple, _: &sys::nftables::Tuple| {
        original.destination_port == 5353
    };
    assert_eq!(conntrack.flows(to_5353).unwrap()[0].original.protocol, 17);
    assert_eq!(conntrack.delete_matching(to_5353).unwrap(), 1);
    assert_eq!(conntrack.flows(to_5353).unwrap(), []);
}

#[test]
fn a_monitor_hears_of_tables_that_go() {
    let namespace = Netns::anonymous().unwrap();
    let mut nft = Nftables::open(&namespace).unwrap();
    let mut monitor = Monitor::open(&namespace).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || while monitor.wait().is_ok() && tell.send(()).is_ok() {});
    let mut batch = Batch::new();
    batch.add_table(&TABLE);
    nft.apply(batch).unwrap();
    let mut batch = Batch::new();
    batch.add_chain(&TABLE, "one", None);
    nft.apply(batch).unwrap();
    assert!(told.try_recv().is_err(), "nothing has gone");
    let mut batch = Batch::new();
    batch.remove_table(&TABLE);
    nft.apply(batch).unwrap();
    told.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
}
