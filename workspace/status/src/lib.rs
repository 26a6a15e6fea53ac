//! Status: the projector, and the API that answers what became of an event.
