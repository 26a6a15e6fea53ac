//! HTTP intake: validates events and makes them durable.
