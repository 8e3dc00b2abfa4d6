//! Sessions of a relay with the scripted server, over real pipes and sockets:
//! the relay is started as guard's launcher starts it.

mod ends;
mod harness;
mod messages;
mod supervisor;
