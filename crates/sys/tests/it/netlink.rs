//! Links, addresses, routes and neighbours.

use sys::netlink::{
    Address, LinkKind, MacAddress, Neighbour, Netns, Route, RouteKind, RouteProtocol, RouteScope,
    Rtnetlink, Veth,
};

const OURS: RouteProtocol = RouteProtocol(107);

#[test]
fn a_namespace_is_furnished_and_read_back() {
    let (here, there) = (Netns::anonymous().unwrap(), Netns::anonymous().unwrap());
    let mut rt = Rtnetlink::open(&here).unwrap();
    rt.create_bridge("br0").unwrap();
    assert!(rt.create_bridge("br0").unwrap_err().is_exists());
    let bridge = rt.link("br0").unwrap().unwrap();
    assert_eq!(bridge.kind, LinkKind::Bridge);
    let veth = Veth {
        host: "v0",
        host_mac: MacAddress([0x0a, 0x58, 0, 0, 0, 1]),
        peer: "eth0",
        peer_mac: MacAddress([0x0a, 0x58, 0, 0, 0, 2]),
        peer_namespace: &there,
        mtu: 1400,
    };
    rt.create_veth(&veth).unwrap();
    let v0 = rt.link("v0").unwrap().unwrap();
    rt.set_alias(v0.index, "ours").unwrap();
    let v0 = rt.link("v0").unwrap().unwrap();
    assert_eq!((v0.alias.as_str(), v0.mtu, v0.mac), ("ours", 1400, veth.host_mac));
    rt.set_master(v0.index, bridge.index).unwrap();
    rt.set_up(bridge.index).unwrap();
    assert_eq!(rt.link("v0").unwrap().unwrap().master, Some(bridge.index));
    let far = Rtnetlink::open(&there).unwrap().link("eth0").unwrap().unwrap();
    assert_eq!((far.mac, far.up), (veth.peer_mac, false));

    let address = Address { link: bridge.index, net: "10.9.0.1/24".parse().unwrap(), scope: 0 };
    rt.add_address(&address).unwrap();
    rt.add_address(&address).unwrap();
    assert!(rt.addresses().unwrap().contains(&address));
    let v6 = Address { link: bridge.index, net: "fd00::1/128".parse().unwrap(), scope: 0 };
    rt.add_address(&v6).unwrap();

    let route = Route {
        kind: RouteKind::Unicast,
        destination: "10.8.0.0/16".parse().unwrap(),
        gateway: Some("10.9.0.7".parse().unwrap()),
        link: bridge.index,
        source: None,
        onlink: false,
        scope: RouteScope::Global,
        protocol: OURS,
    };
    let nowhere = Route {
        kind: RouteKind::Unreachable,
        destination: "10.7.0.0/16".parse().unwrap(),
        gateway: None,
        link: 0,
        ..route
    };
    for route in [route, nowhere] {
        rt.replace_route(&route).unwrap();
        assert!(rt.routes().unwrap().contains(&route), "{route:?} in {:?}", rt.routes());
        rt.delete_route(&route).unwrap();
        assert!(rt.delete_route(&route).unwrap_err().is_not_found());
    }
    let ip = "10.9.0.7".parse().unwrap();
    rt.replace_neighbour(&Neighbour { link: bridge.index, ip, mac: veth.peer_mac }).unwrap();

    rt.delete_link(v0.index).unwrap();
    assert_eq!(rt.link("v0").unwrap(), None);
    assert_eq!(Rtnetlink::open(&there).unwrap().link("eth0").unwrap(), None);
}

#[test]
fn an_error_says_what_was_being_done() {
    let mut rt = Rtnetlink::open(&Netns::anonymous().unwrap()).unwrap();
    let error = rt.set_up(4242).unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "could not set link 4242 up");
}
