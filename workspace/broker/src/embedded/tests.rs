//! Tests of what only this backend can be asked.
