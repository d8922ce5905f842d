//! Prints `gridnet.h`, generated from this crate.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_file(format!("{root}/cbindgen.toml"))?;
    let bindings = cbindgen::Builder::new().with_crate(root).with_config(config).generate()?;
    bindings.write(std::io::stdout());
    Ok(())
}
