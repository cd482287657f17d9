//! Tests of the decisions: the simulator, a model of the protocol, tables and golden files.

mod dispatch;
mod machine;
mod model;
mod sim;
