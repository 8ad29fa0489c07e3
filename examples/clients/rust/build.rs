//! Generates the client's code from the descriptor set that `run` has compiled from protos/.

use prost::Message as _;

fn main() {
    let path = std::env::var("CONTIGMM_DESCRIPTORS").expect("`run` names the descriptor set");
    println!("cargo::rerun-if-env-changed=CONTIGMM_DESCRIPTORS");
    println!("cargo::rerun-if-changed={path}");
    let bytes = std::fs::read(&path).expect("`run` has made the descriptor set");
    let set = prost_types::FileDescriptorSet::decode(bytes.as_slice()).expect("protoc wrote it");
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(set)
        .expect("OUT_DIR can be written");
}
