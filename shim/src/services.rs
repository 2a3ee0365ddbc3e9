//! The ttrpc services. The only modules that know requests and responses.

mod route;
pub mod sandbox;
pub mod task;
