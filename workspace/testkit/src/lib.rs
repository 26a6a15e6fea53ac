//! Real servers and suites for tests.
