//! The migrations are compiled in, but cargo does not see that they are read.
fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
