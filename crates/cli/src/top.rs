//! The full-screen view. What is shown is a value (`State`), how it looks is a function of it
//! (`draw`), and keys only change the value or ask for a verb.

mod consequence;
mod draw;
mod feed;
mod keys;
mod screen;
mod state;

#[cfg(test)]
mod tests;

pub(crate) use self::draw::frame_as_text;
pub(crate) use self::feed::once;
pub(crate) use self::screen::run;
