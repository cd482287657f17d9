//! Where a process may be killed: a test looks there at what would be left.
//!
//! Between two of these places nothing changes that outlives the process, neither in the memory of
//! calls nor in what the kernel has read and written. Outside of tests they are no code.

/// Nobody looks.
#[cfg(not(test))]
#[inline]
pub(crate) fn cut() {}

#[cfg(test)]
pub(crate) use self::looked_at::{cut, look_while};

#[cfg(test)]
mod looked_at {
    use std::cell::RefCell;

    type Look = Box<dyn FnMut()>;

    thread_local! {
        static LOOK: RefCell<Option<Look>> = const { RefCell::new(None) };
    }

    /// Lets whoever looks on this thread look.
    pub(crate) fn cut() {
        // Looking changes nothing, but it comes by here too.
        if let Some(mut look) = LOOK.take() {
            look();
            LOOK.set(Some(look));
        }
    }

    /// Looks at every cut while something is done.
    pub(crate) fn look_while<T>(look: Look, done: impl FnOnce() -> T) -> T {
        LOOK.set(Some(look));
        let answer = done();
        // What the last store left.
        cut();
        LOOK.set(None);
        answer
    }
}
