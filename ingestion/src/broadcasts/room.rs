//! How many uploads there may be at once, so that no tenant keeps the others from broadcasting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The uploads that are under way.
#[derive(Debug)]
pub(super) struct Uploads {
    places: Arc<Semaphore>,
    /// Of each tenant that has any.
    of_tenants: Arc<Mutex<HashMap<Box<str>, usize>>>,
    tenant_max: usize,
}

/// The place of one upload, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    of_tenants: Arc<Mutex<HashMap<Box<str>, usize>>>,
    tenant_max: usize,
    /// Whose upload it is, as soon as that is known.
    tenant: Option<Box<str>>,
}

impl Uploads {
    /// Of all tenants at most `all_max`, of one at most `tenant_max`.
    pub(super) fn new(all_max: usize, tenant_max: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(all_max)),
            of_tenants: Arc::default(),
            tenant_max,
        }
    }

    /// A place, if there is one. Whose it is has to be said yet.
    pub(super) fn place(&self) -> Option<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place {
            _place: place,
            of_tenants: Arc::clone(&self.of_tenants),
            tenant_max: self.tenant_max,
            tenant: None,
        })
    }
}

impl Place {
    /// Says whose upload it is. Answers how many the tenant has with it; `None` if that would be too many.
    pub(super) fn is_of(&mut self, tenant: &str) -> Option<usize> {
        if self.tenant.as_deref() != Some(tenant) {
            self.give_back();
            let mut of_tenants = lock(&self.of_tenants);
            let count = of_tenants.get(tenant).copied().unwrap_or(0);
            if count >= self.tenant_max {
                return None;
            }
            of_tenants.insert(tenant.into(), count + 1);
            self.tenant = Some(tenant.into());
        }
        lock(&self.of_tenants).get(tenant).copied()
    }

    fn give_back(&mut self) {
        let Some(tenant) = self.tenant.take() else { return };
        let mut of_tenants = lock(&self.of_tenants);
        match of_tenants.get_mut(&tenant) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                of_tenants.remove(&tenant);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_share_and_all_have_theirs() {
        let uploads = Uploads::new(3, 2);
        let mut places: Vec<Place> = (0..3).map(|_| uploads.place().unwrap()).collect();
        assert!(uploads.place().is_none());
        let counts: Vec<_> = places.iter_mut().map(|place| place.is_of("a")).collect();
        assert_eq!(counts, [Some(1), Some(2), None]);
        // Said again, or of another tenant after all.
        assert_eq!((places[1].is_of("a"), places[2].is_of("b")), (Some(2), Some(1)));
        places.remove(0);
        let mut next = uploads.place().unwrap();
        assert_eq!(next.is_of("a"), Some(2));
        drop((places, next));
        assert!(lock(&uploads.of_tenants).is_empty());
    }
}
