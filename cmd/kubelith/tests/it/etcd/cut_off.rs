//! A server that cannot reach etcd for longer than etcd keeps its history.

use std::io::{BufRead as _, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::cluster::Cluster;
use super::*;

/// A way to etcd that can be cut. It lasts as long as the test.
#[derive(Clone)]
struct Way {
    port: u16,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    /// To where an URL says.
    fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Self { port, is_cut: Arc::default(), open: Arc::default() };
        let (own, address) = (way.clone(), url.trim_start_matches("http://").to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                own.pass(&client, &address);
            }
        });
        way
    }

    fn pass(&self, client: &TcpStream, address: &str) {
        let Ok(server) = TcpStream::connect(address) else { return };
        {
            let mut open = self.open.lock().unwrap();
            if self.is_cut.load(Ordering::SeqCst) {
                return;
            }
            open.extend([client, &server].map(|it| it.try_clone().unwrap()));
        }
        for (from, to) in [(client, &server), (&server, client)] {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    fn cut(&self) {
        let mut open = self.open.lock().unwrap();
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

fn names(list: &Value) -> Vec<String> {
    items(list).map(name).filter(|it| it != "kube-root-ca.crt").collect()
}

#[test]
fn a_server_that_was_cut_off_from_etcd_reads_everything_anew_and_goes_on() {
    let etcd = Cluster::start(1);
    let way = Way::to(&etcd.urls()[0]);
    let directory = tempfile::tempdir().unwrap();
    let [theirs, ours] = ["a", "b"].map(|it| directory.path().join(it));
    let only = "--disable=agent,proxy,dns,scheduler,controllers".to_owned();
    let direct = [format!("--etcd-servers={}", etcd.urls()[0]), only.clone()];
    let theirs_server = Member::start(theirs.clone(), "192.0.2.1", &direct);
    share_keys(&theirs, &ours);
    let through = [format!("--etcd-servers=http://127.0.0.1:{}", way.port), only];
    let mut ours_server = Member::start(ours, "192.0.2.2", &through);
    let (theirs, ours) = (theirs_server.client(), ours_server.client());
    for name in ["gone", "kept"] {
        assert!(theirs.create(CONFIG_MAPS, &config_map(name)));
    }
    let list = ours.get(CONFIG_MAPS);
    assert_eq!(names(&list), ["gone", "kept"]);
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={}", version(&list));
    let mut watching = ours.curl(&path).spawn().unwrap();
    let told = BufReader::new(watching.stdout.take().unwrap()).lines().map_while(Result::ok);

    way.cut();
    assert_eq!(theirs.send("DELETE", &format!("{CONFIG_MAPS}/gone"), "").unwrap().0, 200);
    assert!(theirs.create(CONFIG_MAPS, &config_map("new")));
    etcd.compact(version(&theirs.get(CONFIG_MAPS)));
    way.mend();

    // Who watches is told to look anew: nobody knows what happened meanwhile.
    let events: Vec<Value> = told.map(|line| serde_json::from_str(&line).unwrap()).collect();
    let codes: Vec<&Value> = events.iter().map(|it| &it["object"]["code"]).collect();
    assert_eq!(codes, [410], "{events:?}");
    watching.wait().unwrap();
    until("what there is now", || names(&ours.get(CONFIG_MAPS)) == ["kept", "new"]);
    assert!(ours.create(CONFIG_MAPS, &config_map("later")));
    assert_eq!(names(&theirs.get(CONFIG_MAPS)), ["kept", "later", "new"]);
    assert!(ours_server.process.try_wait().unwrap().is_none(), "it has ended");
}
