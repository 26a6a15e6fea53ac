//! Dispatchers: take events from their lane and send each through a provider.
