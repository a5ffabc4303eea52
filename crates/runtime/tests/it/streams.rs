//! Exec, attach and port-forward.

use std::time::Duration;

use cri::{AttachRequest, Code, ExecRequest, RuntimeService, StreamSession, Streams, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Fixture, PATIENCE, wait_log};

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true };

async fn read_all(stream: &mut cri::BoxedRead) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn read_until(stream: &mut cri::BoxedRead, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0; 1024];
    while !text.contains(wanted) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await;
        let n = read.unwrap_or_else(|_| panic!("{wanted:?} does not come, but {text:?}")).unwrap();
        assert!(n > 0, "{wanted:?} did not come, but {text:?}");
        text += &String::from_utf8_lossy(&chunk[..n]);
    }
    text
}

async fn exit(session: StreamSession) -> i32 {
    tokio::time::timeout(PATIENCE, session.exit).await.unwrap().unwrap()
}

fn exec(container_id: &str, script: &str, tty: bool) -> ExecRequest {
    ExecRequest {
        container_id: container_id.into(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        streams: ALL,
    }
}

pub(crate) async fn exec_has_streams_and_an_exit_code(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("exec")).await;
    let id = f.start(&pod, &f.script("c", "sleep 1000")).await;
    let script = "wc -c; echo err >&2; exit 9";
    let mut session = f.runtime.exec(&exec(&id, script, false)).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big = vec![b'x'; 300_000];
    stdin.write_all(&big).await.unwrap();
    // The half-close is what lets `wc` end.
    stdin.shutdown().await.unwrap();
    assert_eq!(read_all(session.stdout.as_mut().unwrap()).await.trim(), "300000");
    assert_eq!(read_all(session.stderr.as_mut().unwrap()).await, "err\n");
    assert_eq!(exit(session).await, 9);
    let response = f.exec(&id, "printf out; printf err >&2; kill -9 $$").await;
    assert_eq!((response.stdout, response.stderr), (b"out".to_vec(), b"err".to_vec()));
    assert_eq!(response.exit_code, 137);
    // What a command leaves running does not hold its end up.
    let response = f.exec(&id, "sleep 100 & echo done").await;
    assert_eq!((response.stdout, response.exit_code), (b"done\n".to_vec(), 0));
    let gone = f.runtime.exec_sync("nobody", &["true".to_owned()], PATIENCE).await;
    assert!(gone.unwrap_err().is_not_found());
    let gone = f.runtime.exec(&exec("nobody", "true", false)).await;
    assert!(gone.unwrap_err().is_not_found());
    // A command that does not start has streams, and ends with the reason.
    for (program, tty, expected) in [
        ("nonexist", false, "exec: \"nonexist\": executable file not found in $PATH"),
        ("nonexist", true, "exec: \"nonexist\": executable file not found in $PATH"),
        ("/etc/hostname", false, "exec: \"/etc/hostname\": permission denied"),
        ("", false, "exec: \"\": executable file not found in $PATH"),
    ] {
        f.exec_text(&id, "echo here > /etc/hostname").await;
        let cmd = vec![program.to_owned()];
        let request = ExecRequest { container_id: id.clone(), cmd, tty, streams: ALL };
        let session = f.runtime.exec(&request).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, session.exit).await.unwrap();
        let error = ended.unwrap_err().message;
        assert!(
            error.starts_with("failed to exec in container: failed to start exec \""),
            "{error}"
        );
        let expected = format!(
            "\": OCI runtime exec failed: exec failed: unable to start container process: \
             {expected}: unknown"
        );
        assert!(error.ends_with(&expected), "{error}");
    }
    f
}

pub(crate) async fn exec_has_a_terminal(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("tty")).await;
    let id = f.start(&pod, &f.script("c", "sleep 1000")).await;
    let script = "test -t 0 && test -t 2 && echo terminal $TERM; read line; stty size; exit 4";
    let mut session = f.runtime.exec(&exec(&id, script, true)).await.unwrap();
    assert!(session.stderr.is_none());
    let stdout = session.stdout.as_mut().unwrap();
    read_until(stdout, "terminal xterm").await;
    session.resize.resize(TerminalSize { width: 91, height: 33 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    read_until(stdout, "33 91").await;
    assert_eq!(read_all(stdout).await.trim(), "");
    assert_eq!(exit(session).await, 4);
    // The container has no console of its own, and gets none that ends with an exec.
    f.exec_text(&id, "test ! -e /dev/console && ! grep -q /dev/console /proc/mounts").await;
    // Dropping a session hangs up.
    let session = f.runtime.exec(&exec(&id, "exec sleep 2001", true)).await.unwrap();
    drop(session);
    let gone = "i=0; while ps -o args | grep -q '^[s]leep 2001'; do sleep 0.02; i=$((i+1)); \
        [ $i -lt 500 ] || exit 1; done";
    f.exec_text(&id, gone).await;
    f
}

pub(crate) async fn short_commands_time_out(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("timeout")).await;
    let id = f.start(&pod, &f.script("c", "sleep 1000")).await;
    let cmd = ["sleep", "3001"].map(str::to_owned);
    let error = f.runtime.exec_sync(&id, &cmd, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    let gone = "i=0; while ps -o args | grep -q '^[s]leep 3001'; do sleep 0.02; i=$((i+1)); \
        [ $i -lt 500 ] || exit 1; done";
    f.exec_text(&id, gone).await;
    f
}

pub(crate) async fn attach_joins_the_first_process(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("attach")).await;
    let mut config = f.script("c", "while read line; do echo got $line; done; echo end; exit 2");
    config.stdin = true;
    config.stdin_once = true;
    let id = f.start(&pod, &config).await;
    let request = AttachRequest { container_id: id.clone(), tty: false, streams: ALL };
    let mut session = f.runtime.attach(&request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got one\n").await;
    drop(stdin);
    assert_eq!(read_all(session.stdout.as_mut().unwrap()).await, "end\n");
    assert_eq!(exit(session).await, 2);
    let status = f.wait(&id).await;
    assert_eq!(crate::fixture::log_content(&status.log_path), "got one\nend");
    // With a terminal, and input that outlives an attach.
    let mut config =
        f.script("t", "test -t 1 && echo terminal; while read line; do stty size; done");
    config.stdin = true;
    config.tty = true;
    let id = f.start(&pod, &config).await;
    let log = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&log, "terminal").await;
    let request = AttachRequest { container_id: id.clone(), tty: true, streams: ALL };
    for width in [71_u16, 72] {
        let mut session = f.runtime.attach(&request).await.unwrap();
        session.resize.resize(TerminalSize { width, height: 20 }).await.unwrap();
        session.stdin.as_mut().unwrap().write_all(b"x\n").await.unwrap();
        read_until(session.stdout.as_mut().unwrap(), &format!("20 {width}")).await;
    }
    f.exec_text(&id, "test -c /dev/console").await;
    f
}

pub(crate) async fn ports_are_forwarded_into_the_pod(f: Fixture) -> Fixture {
    let pod = f.run_pod(&f.pod("ports")).await;
    let script = "echo up; while true; do nc -l -p 8080 -e cat; done";
    let id = f.start(&pod, &f.script("c", script)).await;
    let log = f.runtime.container_status(&id).await.unwrap().log_path;
    wait_log(&log, "up").await;
    let connect = async {
        loop {
            // Until it listens.
            if let Ok(stream) = f.runtime.port_forward(&pod, 8080).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut stream = tokio::time::timeout(PATIENCE, connect).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "ping");
    let Err(error) = f.runtime.port_forward(&pod, 9).await else { panic!("nobody listens") };
    assert!(
        error.message.contains("dial tcp4 127.0.0.1:9: connect: connection refused"),
        "{error}"
    );
    f
}
