//! A value that is replaced while others use it.

use std::sync::{Arc, PoisonError, RwLock};

/// Whoever gets the value keeps it as it was; whoever comes after [`Current::set`] gets the new one. Nobody waits for anybody.
#[derive(Debug)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// With its first value.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        // The lock is held for the length of one assignment, which does not panic.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value);
        // Only now, outside of the lock: it may be large.
        drop(old);
    }
}
