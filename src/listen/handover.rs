//! How the listening sockets go from the process that serves to the one that replaces it.
//!
//! Over a Unix socket, readable by its owner only, between processes of one user. The new process
//! connects when it starts, asks when its models are warm, accepts on what it is given, and says so;
//! only then the old one stops accepting. Whatever breaks before that leaves the old one as it was.
//! The connection stays until the old process has ended: its last word is what it still spent.
//! pingora has a hand-over of its own (`Fds`); it knows no acknowledgement, lets anybody connect,
//! and hands out raw descriptors, which only unsafe code can own. Used by `boot`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};

/// The version of what the two processes say.
const VERSION: u32 = 1;
/// The longest thing said.
const LONGEST: u64 = 1 << 20;
/// How many sockets can come at once.
const MOST_SOCKETS: usize = 8;

/// What the processes say to each other, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// New: give me the sockets; I speak this version.
    Take(u32),
    /// Old: here they are, these ports in this order.
    Sockets(Vec<String>),
    /// Old: no, and why.
    Refused(String),
    /// New: I accept on them.
    Accepting,
    /// Old: I accept no more.
    Leaving,
    /// Old, at its end: what was spent since, rendered by `account`.
    Spent(String),
}

/// The other process, at the other end of the socket.
#[derive(Debug)]
pub(super) struct Peer {
    stream: BufReader<UnixStream>,
    pid: u32,
}

impl Peer {
    /// The other end, if it is a process of the same user.
    fn of(stream: UnixStream) -> io::Result<Peer> {
        let peer = sockopt::socket_peercred(&stream)?;
        if peer.uid != rustix::process::geteuid() {
            let user = peer.uid.as_raw();
            return Err(io::Error::other(format!("a process of another user ({user}) asks for the sockets")));
        }
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or_default();
        Ok(Peer { stream: BufReader::new(stream), pid })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Says something.
    pub(super) async fn say(&mut self, word: &Word) -> io::Result<()> {
        self.stream.write_all(&line(word)?).await
    }

    /// What it says next; an error where it has gone.
    pub(super) async fn hear(&mut self) -> io::Result<Word> {
        let mut text = String::new();
        (&mut self.stream).take(LONGEST).read_line(&mut text).await?;
        if text.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has gone"));
        }
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// Gives it these sockets.
    pub(super) async fn give(&mut self, sockets: &[(&'static str, OwnedFd)]) -> io::Result<()> {
        let names = sockets.iter().map(|(port, _)| (*port).to_owned()).collect();
        let (text, stream) = (line(&Word::Sockets(names))?, self.stream.get_ref());
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut along = SendAncillaryBuffer::new(&mut space);
            if !along.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("too many sockets"));
            }
            Ok(sendmsg(stream, &[IoSlice::new(&text)], &mut along, SendFlags::empty())?)
        });
        let sent = sent.await?;
        self.stream.write_all(&text[sent..]).await
    }

    /// Asks for its sockets.
    async fn take(&mut self) -> io::Result<Vec<(String, TcpListener)>> {
        self.say(&Word::Take(VERSION)).await?;
        let (mut text, mut sockets) = (Vec::new(), Vec::new());
        while text.last() != Some(&b'\n') {
            let stream = self.stream.get_ref();
            let (mut piece, mut got) = ([0; 1024], Vec::new());
            let count = stream.async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
                let mut along = RecvAncillaryBuffer::new(&mut space);
                let slices = &mut [IoSliceMut::new(&mut piece)];
                let count = recvmsg(stream, slices, &mut along, RecvFlags::CMSG_CLOEXEC)?.bytes;
                for message in along.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        got.extend(descriptors);
                    }
                }
                Ok(count)
            });
            let count = count.await?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has gone"));
            }
            text.extend_from_slice(&piece[..count]);
            sockets.append(&mut got);
        }
        match serde_json::from_slice(&text).map_err(io::Error::other)? {
            Word::Sockets(names) if names.len() == sockets.len() => {
                Ok(names.into_iter().zip(sockets.into_iter().map(TcpListener::from)).collect())
            }
            Word::Refused(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
            other => Err(io::Error::other(format!("the other process said {other:?} where its sockets were wanted"))),
        }
    }
}

fn line(word: &Word) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(word)?;
    text.push(b'\n');
    Ok(text)
}

/// The process that serves now.
#[derive(Debug)]
pub(super) struct Predecessor(std::os::unix::net::UnixStream);

impl Predecessor {
    /// The process that hands over at this path; `None`: nobody is there.
    pub(super) fn find(path: &Path) -> Result<Option<Predecessor>, String> {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(stream) => Ok(Some(Predecessor(stream))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(format!("--handover {}: cannot ask who serves there: {error}", path.display())),
        }
    }

    /// Asks for its sockets; its last word is awaited from the peer.
    ///
    /// # Errors
    /// `PermissionDenied`: it refuses. Any other: it has gone, or makes no sense.
    pub(super) async fn take(self) -> io::Result<(Peer, Vec<(String, TcpListener)>)> {
        self.0.set_nonblocking(true)?;
        let mut peer = Peer::of(UnixStream::from_std(self.0)?)?;
        let sockets = peer.take().await?;
        Ok((peer, sockets))
    }
}

/// Where a process that replaces this one connects.
#[derive(Debug)]
pub(super) struct Successors(UnixListener);

impl Successors {
    /// Opens the socket at this path in the place of whatever was there: the old process's, or one
    /// that a crash has left.
    pub(super) fn open(path: &Path) -> io::Result<Successors> {
        let mut new = PathBuf::from(path).into_os_string();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        let opened = UnixListener::bind(&new)?;
        // Nobody knows the name until it is its owner's alone.
        let placed = std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&new, path));
        if placed.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        placed.map(|()| Successors(opened))
    }

    /// The next process that connects. Dropping the future loses nobody.
    pub(super) async fn next(&self) -> io::Result<Peer> {
        let (stream, _) = self.0.accept().await?;
        Peer::of(stream)
    }
}

/// Hears a process until it asks for the sockets.
pub(super) async fn asked(mut peer: Peer) -> io::Result<Peer> {
    match peer.hear().await? {
        Word::Take(VERSION) => Ok(peer),
        Word::Take(version) => {
            let why = format!("version {version} of the hand-over is not known; known: {VERSION}");
            peer.say(&Word::Refused(why.clone())).await?;
            Err(io::Error::other(why))
        }
        other => Err(io::Error::other(format!("it said {other:?} where it should ask for the sockets"))),
    }
}
