//! One process gives way to the next: both sides of it, and what goes along with the sockets.
//!
//! Promises: at no moment does nobody accept; the state folder has one writer; whatever fails before
//! the new process has said that it accepts leaves the old one serving, with all that it had. Money
//! that the old process spends afterwards is told to the new one with its last word. Used by `boot`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use super::handover::{Peer, Successors, Word, asked};
use super::sockets::{ADMIN, DATA, Succession};
use super::state::{Running, State};
use super::supervisor;

/// How long a process that was given the sockets may take to accept on them.
const TO_ACCEPT: Duration = Duration::from_secs(30);
/// How many processes may be connected; more are turned away.
const MOST_HEIRS: usize = 16;

/// The process whose sockets these are now.
pub(super) struct Taken(Option<Peer>);

/// Takes the sockets, and what is in the state folder, from the process that serves now. If that
/// has gone meanwhile, there is nobody to take anything from: its error says so.
pub(super) async fn take(from: Succession, running: &Running) -> Result<Taken, String> {
    let Succession { predecessor, data, admin, addresses } = from;
    let (peer, mut sockets) = match predecessor.take().await {
        Ok((peer, sockets)) => (Some(peer), sockets),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(format!("the process that serves now gives no sockets: {error}"));
        }
        Err(error) => {
            tracing::warn!(%error, "the process that served has gone; its addresses are bound anew");
            (None, addresses.bind()?)
        }
    };
    running
        .control
        .take_over()
        .await
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nweir: "))?;
    for (port, to) in [(DATA, data), (ADMIN, admin)] {
        let place = sockets.iter().position(|(name, _)| name == port);
        let (_, socket) = place.map(|place| sockets.swap_remove(place)).ok_or_else(|| {
            format!("the process that serves now gave no socket of the {port} port; stop it and start this one")
        })?;
        to.send(socket).map_err(|_| format!("the {port} port has ended before it was opened"))?;
    }
    Ok(Taken(peer))
}

impl Taken {
    /// Says that this process accepts, and hears in the background what the other still spends.
    pub(super) async fn accepting(self, state: &Arc<State>) {
        let Some(running) = state.running() else { return };
        let Some(mut peer) = self.0 else { return running.metrics.own_capture(true) };
        let left = async {
            peer.say(&Word::Accepting).await?;
            peer.hear().await
        };
        match left.await {
            Ok(Word::Leaving) => tracing::info!(process = peer.pid(), "took over"),
            Ok(word) => tracing::warn!(?word, "the process before this one should have said that it leaves"),
            Err(error) => tracing::warn!(%error, "the process before this one ended in the hand-over"),
        }
        running.metrics.own_capture(true);
        let pacers = Arc::clone(running.control.current().pacers());
        state.tasks().spawn(async move {
            match peer.hear().await {
                Ok(Word::Spent(text)) => match pacers.correct(&text) {
                    Ok(()) => tracing::info!("the process before this one has ended; what it spent is noted"),
                    Err(error) => tracing::error!(error, "what the process before this one spent cannot be noted"),
                },
                Ok(word) => tracing::warn!(?word, "the process before this one should have said what it spent"),
                // What it may have spent at most is in the journal.
                Err(error) => tracing::warn!(%error, "the process before this one never said what it spent"),
            }
        });
    }
}

/// The old process's last word: all is written, and this is what was spent since the sockets went.
pub(super) async fn settle(mut heir: Peer, running: &Running) {
    let spent = running.control.current().pacers().corrections();
    if let Err(error) = heir.say(&Word::Spent(spent)).await {
        tracing::warn!(%error, "the next process does not hear what was spent after the hand-over");
    }
}

/// Where processes connect that will replace this one.
pub(super) struct Heirs(Option<Successors>);

impl Heirs {
    /// Opens the socket, if there is to be one.
    pub(super) fn open(path: Option<&Path>) -> Result<Heirs, String> {
        let told = |path: &Path, error| format!("--handover {}: cannot open the socket: {error}", path.display());
        path.map(|path| Successors::open(path).map_err(|error| told(path, error))).transpose().map(Heirs)
    }

    /// Waits until one of them accepts in the place of this process. Dropping the future leaves this
    /// one serving with all that it had.
    pub(super) async fn await_heir(&self, state: &Arc<State>) -> Peer {
        let Some(successors) = &self.0 else { return std::future::pending().await };
        let mut waiting: FuturesUnordered<BoxFuture<'_, io::Result<Peer>>> = FuturesUnordered::new();
        loop {
            let room = waiting.len() < MOST_HEIRS;
            let heir = tokio::select! {
                peer = successors.next(), if room => match peer {
                    Ok(peer) => {
                        waiting.push(Box::pin(asked(peer)));
                        continue;
                    }
                    Err(error) => Err(error),
                },
                // One at a time: the sockets are given while nobody else is heard.
                Some(asking) = waiting.next() => match asking {
                    Ok(peer) => give(peer, state).await,
                    Err(error) => Err(error),
                },
            };
            match heir {
                Ok(heir) => return heir,
                Err(error) => {
                    tracing::warn!(%error, "no hand-over; this process goes on serving");
                    // What keeps failing, as for want of descriptors, must not take a core.
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// How long after a failure the next process is heard.
const AGAIN: Duration = Duration::from_millis(100);

/// Writing to the state folder again, unless the hand-over is done.
struct Held<'a>(Option<&'a Running>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.control.resume();
        }
    }
}

async fn give(mut heir: Peer, state: &Arc<State>) -> io::Result<Peer> {
    let running = state.running().ok_or_else(|| io::Error::other("nothing is served yet"))?;
    tracing::info!(process = heir.pid(), "another process asks for the sockets");
    running.control.hand_over();
    let mut held = Held(Some(running));
    let accepting = async {
        heir.give(&state.sockets()).await?;
        match heir.hear().await? {
            Word::Accepting => Ok(()),
            word => Err(io::Error::other(format!("it said {word:?} where it should accept"))),
        }
    };
    timeout(TO_ACCEPT, accepting).await.map_err(|_| io::Error::other("it does not accept"))??;
    held.0 = None;
    running.metrics.own_capture(false);
    state.hand_over();
    supervisor::succeeded_by(heir.pid());
    tracing::info!(process = heir.pid(), "handed over; finishing answers in flight");
    // The other end has accepted: whether it hears this changes nothing.
    let _ = heir.say(&Word::Leaving).await;
    Ok(heir)
}
