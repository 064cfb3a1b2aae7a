//! Building a version from a distribution's packages.

mod recipe;

pub use recipe::{Kernel, Password, Recipe};
