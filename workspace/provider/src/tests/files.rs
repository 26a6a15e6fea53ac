//! The provider files: what they send, and how they read answers.
