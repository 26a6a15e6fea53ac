//! A stand-in for the providers' HTTP APIs, for trying and testing.
