//! What systemd gives and is told, with a small parent in its place.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixDatagram};
use tokio::process::Command;

use super::process::{Place, Process, chat, client, soon, upstream};

/// Becomes the command with two listening sockets, as systemd would start it.
const ACTIVATE: &str = r#"
import os, socket, sys
names, command = sys.argv[1], sys.argv[2:]
first = [socket.socket() for _ in names.split(":")]
for place, one in enumerate(first):
    one.bind(("127.0.0.1", int(os.environ["PORTS"].split(":")[place])))
    one.listen(64)
for place, fd in enumerate([os.dup(one.fileno()) for one in first]):
    os.dup2(fd, 20 + place, True)
for place in range(len(first)):
    os.dup2(20 + place, 3 + place, True)
os.environ.update(LISTEN_FDS=str(len(first)), LISTEN_FDNAMES=names, LISTEN_PID=str(os.getpid()))
os.execve(command[0], command, os.environ)
"#;

fn activated(place: &Place, names: &str, ports: &[&str]) -> Command {
    let serve = place.command(&[]);
    let serve = serve.as_std();
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE, names]).arg(serve.get_program()).args(serve.get_args());
    let ports: Vec<&str> = ports.iter().map(|address| address.rsplit(':').next().unwrap()).collect();
    command.env("PORTS", ports.join(":"));
    command
}

/// What is told next.
async fn told(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let count = soon(socket.recv(&mut message)).await.unwrap();
    String::from_utf8(message[..count].to_vec()).unwrap()
}

/// Reads on until this is told; other news but these are skipped.
async fn tells(socket: &UnixDatagram, wanted: &str) -> String {
    loop {
        let news = told(socket).await;
        if news.lines().any(|line| line.starts_with(wanted)) {
            return news;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_are_given_are_served_and_what_becomes_of_the_process_is_told() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "");
    let notify = place.path("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    let mut command = activated(&place, "admin:data", &[&place.admin, &place.listen]);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
    let mut process = Process::spawn(command, place.folder.path());
    let first = told(&socket).await;
    assert!(first.starts_with("STATUS=starting"), "{first}");
    // Who connects before the process is warm waits.
    let asked = place.ask(&client(), &chat("hi", false)).await.unwrap();
    assert_eq!(asked.status, 200);
    let ready = tells(&socket, "READY=1").await;
    assert!(ready.contains("STATUS=serving"), "{ready}");
    assert_eq!(place.probe("/readyz").await.0, 200);
    tells(&socket, "WATCHDOG=1").await;
    process.signal("HUP").await;
    let reloading = tells(&socket, "RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    tells(&socket, "READY=1").await;
    process.signal("TERM").await;
    tells(&socket, "STOPPING=1").await;
    assert_eq!(process.ends().await, Some(0), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_nobody_knows_is_named_and_one_without_a_name_is_the_data_ports() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "");
    let mut process =
        Process::spawn(activated(&place, "data:other", &[&place.listen, &place.admin]), place.folder.path());
    assert_eq!(process.ends().await, Some(1));
    assert!(process.log().contains("systemd gave a socket named \"other\"; want FileDescriptorName=data or admin"));
    let place = Place::with(&upstream, "");
    let _process = Process::spawn(activated(&place, "unknown", &[&place.listen]), place.folder.path());
    assert_eq!(place_when_up(&place).await, 200);
}

async fn place_when_up(place: &Place) -> u16 {
    place.ready().await;
    place.ask(&client(), &chat("hi", false)).await.unwrap().status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hands_over_says_which_one_is_the_service() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "");
    let (notify, path) = (place.path("notify"), place.path("handover"));
    let socket = UnixDatagram::bind(&notify).unwrap();
    let command = || {
        let mut command = place.command(&["--handover", path.to_str().unwrap()]);
        command.env("NOTIFY_SOCKET", &notify);
        command
    };
    let mut old = Process::spawn(command(), place.folder.path());
    tells(&socket, "READY=1").await;
    let new = Process::spawn(command(), place.folder.path());
    let told = tells(&socket, "MAINPID=").await;
    assert!(told.contains(&format!("MAINPID={}\n", new.child.id().unwrap())), "{told}");
    tells(&socket, "READY=1").await;
    assert_eq!(old.ends().await, Some(0));
    assert!(TcpListener::bind(&place.listen).await.is_err(), "it is served");
}
