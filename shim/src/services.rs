//! The ttrpc services. The only modules that know requests and responses.

pub mod task;
