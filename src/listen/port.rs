//! One listening port: its socket comes from the start of the process, and connections are accepted
//! from it while its service runs.
//!
//! pingora starts the service, with its own threads, once what it depends on is ready. The accept
//! loop is ours: pingora's stream would stand, boxed and buffered, between hyper and the socket on
//! every read and write. Used by `serve` for both ports.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_runtime::current_handle;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: u32 = 1024;

/// Open connections of one port; more wait to be accepted.
pub(super) const MOST_CONNECTIONS: usize = 8192;

/// How long to wait when the process has no file descriptor left for another connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Serves one connection to its end.
pub(super) type Serve = Arc<dyn Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Resolves when a port is to accept nothing more; made once.
pub(super) type Until = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Where a port's socket comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Bound here; nobody can connect yet.
    Bound(TcpSocket),
    /// Given by who started the process; who connects waits until the port is served.
    Open(std::net::TcpListener),
    /// To be given by the process that serves now.
    Coming(oneshot::Receiver<std::net::TcpListener>),
}

impl Source {
    async fn open(self) -> io::Result<TcpListener> {
        let open = match self {
            Source::Bound(socket) => return socket.listen(BACKLOG),
            Source::Open(open) => open,
            Source::Coming(coming) => coming.await.map_err(io::Error::other)?,
        };
        open.set_nonblocking(true)?;
        TcpListener::from_std(open)
    }
}

/// A bound socket and what is done with its connections.
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) threads: usize,
    /// Taken when the port opens.
    pub(super) source: Option<Source>,
    pub(super) serve: Serve,
    /// Called once the port is open, with a copy of its socket.
    pub(super) opened: Box<dyn Fn(OwnedFd, SocketAddr) + Send + Sync>,
    pub(super) connections: TaskTracker,
    /// A permit for each connection that may be open.
    pub(super) room: Arc<Semaphore>,
    /// Nothing is accepted any more once it resolves.
    pub(super) until: Until,
}

/// Binds `HOST:PORT` without opening it: clients are refused until the service starts. A taken or
/// impossible address is an error that names it.
pub(super) fn bind(text: &str) -> Result<(TcpSocket, SocketAddr), String> {
    let address = text
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| format!("cannot listen on \"{text}\": want HOST:PORT such as 127.0.0.1:8080"))?;
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    bound().map_err(|error: std::io::Error| {
        format!("cannot listen on {address}: {error}; choose another with --listen or --admin")
    })
}

#[async_trait]
impl Service for Port {
    async fn start_service(&mut self, _fds: Option<ListenFds>, _stop: ShutdownWatch, _listeners_per_fd: usize) {
        let Some(source) = self.source.take() else { return };
        let opened = match source.open().await {
            Ok(listener) => self.open(&listener).map(|()| listener),
            Err(error) => Err(error),
        };
        match opened {
            Ok(listener) => self.accept(&listener).await,
            Err(error) => tracing::error!(port = self.name, %error, "cannot open the port"),
        }
    }

    fn name(&self) -> &str {
        self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

impl Port {
    fn open(&self, listener: &TcpListener) -> io::Result<()> {
        (self.opened)(listener.as_fd().try_clone_to_owned()?, listener.local_addr()?);
        Ok(())
    }

    async fn accept(&self, listener: &TcpListener) {
        let mut until = (self.until)();
        loop {
            let room = Arc::clone(&self.room);
            let accepted = tokio::select! {
                (permit, accepted) = async { (room.acquire_owned().await, listener.accept().await) } => {
                    accepted.map(|(stream, _)| (stream, permit))
                }
                () = &mut until => break,
            };
            match accepted {
                Ok((stream, permit)) => self.serve(stream, permit.ok()),
                Err(error) => {
                    tracing::warn!(port = self.name, %error, "cannot accept a connection");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
        // Who has connected already is served: closing the socket would break these connections.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            self.serve(stream, None);
        }
    }

    fn serve(&self, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
        let serving = connection(stream.into_std(), Arc::clone(&self.serve));
        let kept = async move {
            serving.await;
            drop(permit);
        };
        self.connections.spawn_on(kept, &current_handle());
    }
}

/// One connection, on whichever of the service's threads it runs: that one watches its socket.
async fn connection(stream: io::Result<std::net::TcpStream>, serve: Serve) {
    let stream = stream.and_then(TcpStream::from_std).inspect(|stream| {
        // A failure only costs latency.
        let _ = stream.set_nodelay(true);
    });
    match stream {
        Ok(stream) => serve(stream).await,
        Err(error) => tracing::warn!(%error, "cannot serve a connection"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpStream;
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait_and_are_served_in_the_end() {
        let (socket, address) = bind("127.0.0.1:0").unwrap();
        let (open, most, served) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((open, most, served));
        let seen = Arc::clone(&counts);
        let serve: Serve = Arc::new(move |stream| {
            let counts = Arc::clone(&counts);
            Box::pin(async move {
                let (open, most, served) = &*counts;
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..100 {
                    yield_now().await;
                }
                open.fetch_sub(1, Ordering::SeqCst);
                served.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            })
        });
        let port = Port {
            name: "test",
            threads: 1,
            source: None,
            serve,
            opened: Box::new(|_, _| {}),
            connections: TaskTracker::new(),
            room: Arc::new(Semaphore::new(2)),
            until: Box::new(|| Box::pin(std::future::pending())),
        };
        let listener = socket.listen(BACKLOG).unwrap();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move { port.accept(&listener).await });
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        while seen.2.load(Ordering::SeqCst) < clients.len() {
            yield_now().await;
        }
        assert_eq!(seen.1.load(Ordering::SeqCst), 2);
    }
}
