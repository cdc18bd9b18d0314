//! The background half of Roost: everything slow or fallible.

pub mod email;
