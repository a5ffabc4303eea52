//! Members of etcd that a test starts, kills and starts again.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Some members on loopback. Dropping it ends them.
pub(crate) struct Cluster {
    dir: TempDir,
    members: Vec<Member>,
    arguments: Vec<String>,
    scheme: &'static str,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Cluster {
    /// So many members, ready to serve once they have found each other.
    pub(crate) fn start(size: usize) -> Self {
        Self::with(size, "http", &[])
    }

    pub(crate) fn with(size: usize, scheme: &'static str, arguments: &[String]) -> Self {
        let ports = free_ports(2 * size);
        let members = ports.chunks(2);
        let members =
            members.map(|it| Member { client: it[0], peer: it[1], process: None }).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self { dir, members, arguments: arguments.to_vec(), scheme };
        (0..size).for_each(|index| cluster.run(index));
        cluster
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |member: &Member| format!("{}://127.0.0.1:{}", self.scheme, member.client);
        self.members.iter().map(url).collect()
    }

    /// Starts a member, on what it had before.
    pub(crate) fn run(&mut self, index: usize) {
        let peers = self.members.iter().enumerate();
        let peers: Vec<String> = peers
            .map(|(index, member)| format!("m{index}=http://127.0.0.1:{}", member.peer))
            .collect();
        let member = &self.members[index];
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let process = Command::new("etcd")
            .args(["--name", &format!("m{index}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{index}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(",")])
            // The port's largest value is more than etcd takes of itself.
            .args(["--max-request-bytes", "16777216", "--logger", "zap"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd could not be started: cargo xtask install");
        self.members[index].process = Some(process);
    }

    /// Ends a member without a word.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|index| self.kill(index));
    }
}

fn free_ports(count: usize) -> Vec<u16> {
    let sockets = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let sockets: Vec<TcpListener> = sockets.collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect()
}

/// What is asked of etcd's gateway, which speaks JSON.
impl Cluster {
    fn gateway(&self, path: &str, body: &str) -> String {
        use std::io::{Read as _, Write as _};
        let address = format!("127.0.0.1:{}", self.members[0].client);
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The number of the only lease.
    pub(crate) fn one_lease(&self) -> String {
        let answer = self.gateway("/v3/lease/leases", "{}");
        let ids: Vec<&str> = answer.split("\"ID\":\"").skip(1).collect();
        assert_eq!(ids.len(), 1, "{answer}");
        ids[0].split('"').next().unwrap().to_owned()
    }

    /// Has the cluster forget what was before a revision.
    #[allow(dead_code, reason = "servers are cut off from it, stores are not")]
    pub(crate) fn compact(&self, rev: u64) {
        let answer = self.gateway("/v3/kv/compaction", &format!("{{\"revision\":{rev}}}"));
        assert!(
            answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
            "{answer}"
        );
    }

    pub(crate) fn revoke(&self, lease: &str) {
        let answer = self.gateway("/v3/lease/revoke", &format!("{{\"ID\":{lease}}}"));
        assert!(
            answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
            "{answer}"
        );
    }
}
