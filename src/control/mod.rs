//! Files → checked → Snapshot; reload.
