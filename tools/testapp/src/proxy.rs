//! A TCP proxy: port 8080 to an address. Each connection has two threads; without an address it is accepted and closed.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use crate::{flag, number};

/// Listens on 8080 and passes bytes on.
pub(crate) fn play(arguments: &[String]) -> Result<(), String> {
    let port = number(arguments, "port", 8080_u16)?;
    let target = flag(arguments, "target").map(str::to_owned);
    let listener = TcpListener::bind(("0.0.0.0", port))
        .map_err(|error| format!("could not listen on port {port}: {error}"))?;
    println!("proxying port {port}");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let target = target.clone();
            thread::spawn(move || {
                // Without a target there is nobody to pass to: the connection itself is what probes want.
                let Some(target) = target else { return };
                if let Ok(server) = TcpStream::connect(&target) {
                    both(&client, &server);
                }
            });
        }
    });
    Ok(())
}

fn both(client: &TcpStream, server: &TcpStream) {
    thread::scope(|scope| {
        scope.spawn(|| pass(client, server));
        pass(server, client);
    });
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    // Either end may go first.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
