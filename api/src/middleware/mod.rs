//! What happens around every handler, from the outside in: observe, compress, CORS, then guard.

pub mod coding;
pub mod cors;
pub mod guard;
pub mod observe;
