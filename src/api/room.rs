//! The memory that bodies of requests take, all of them together.
//!
//! Promises: a body's bytes count from the moment they are here until the last copy of its [`Bytes`] is dropped,
//! be that at the end of reading or at the end of the request; what does not fit is refused at once, so that
//! nobody waits for memory; bytes that are only announced count nothing. Made by `control`, asked by `body`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Origin, Result, Retry};

/// Bytes are counted by so many.
const UNIT: usize = 1024;

/// Room for bodies; clones share it.
#[derive(Debug, Clone)]
pub struct Room {
    bytes: usize,
    left: Arc<Semaphore>,
}

/// What a body takes of it.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    room: &'a Room,
    units: usize,
    permit: Option<OwnedSemaphorePermit>,
}

/// Bytes that give their room back.
struct Housed {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Housed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// Room for so many bytes; more than four terabytes are no bound.
    pub fn of(bytes: usize) -> Room {
        let units = bytes.div_ceil(UNIT).min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Room { bytes, left: Arc::new(Semaphore::new(units)) }
    }

    /// How many bytes there are room for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn enter(&self) -> Taken<'_> {
        Taken { room: self, units: 0, permit: None }
    }

    fn full(&self) -> Error {
        let message = format!(
            "the bodies of requests take all of the {} bytes that there are for them; try again, or raise max_bodies in \
             the configuration",
            self.bytes
        );
        Error::new(Kind::Overloaded, Origin::Gateway, message).retry(Retry::After(Duration::from_secs(1)))
    }
}

impl Taken<'_> {
    /// Takes room for a body that has grown to so many bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.div_ceil(UNIT).saturating_sub(self.units);
        if more == 0 {
            return Ok(());
        }
        let units = u32::try_from(more).map_err(|_| self.room.full())?;
        let permit = Arc::clone(&self.room.left).try_acquire_many_owned(units).map_err(|_| self.room.full())?;
        self.units += more;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }

    /// The whole body, which keeps its room.
    pub(super) fn house(self, bytes: Bytes) -> Bytes {
        match self.permit {
            Some(permit) => Bytes::from_owner(Housed { bytes, _permit: permit }),
            None => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn housed(room: &Room, bytes: usize) -> Result<Bytes> {
        let mut taken = room.enter();
        taken.grow(bytes / 2)?;
        taken.grow(bytes)?;
        Ok(taken.house(Bytes::from(vec![b'x'; bytes])))
    }

    #[test]
    fn a_body_keeps_its_room_until_its_last_copy_is_dropped() {
        let room = Room::of(10 * UNIT);
        let body = housed(&room, 6 * UNIT).unwrap();
        let part = body.slice(3..5);
        drop(body);
        let error = housed(&room, 6 * UNIT).unwrap_err();
        assert_eq!((error.kind(), error.detail().origin), (Kind::Overloaded, Origin::Gateway));
        assert!(housed(&room, 4 * UNIT).is_ok(), "what did not fit has given back what it had taken");
        drop(part);
        assert!(housed(&room, 10 * UNIT).is_ok());
    }

    #[test]
    fn bytes_are_counted_once_however_small_their_pieces() {
        let room = Room::of(2 * UNIT);
        let mut taken = room.enter();
        assert!((1..=2 * UNIT).all(|bytes| taken.grow(bytes).is_ok()));
        assert!(taken.grow(2 * UNIT + 1).is_err());
        drop(taken);
        assert!(housed(&room, 2 * UNIT).is_ok() && housed(&Room::of(usize::MAX), 10 * UNIT).is_ok());
    }
}
