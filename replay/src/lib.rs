//! Replay: the index of open dead letters and their re-publication.
