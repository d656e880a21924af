//! Hands of people who do not exist, drawn procedurally in the layout of 11k Hands. Knows nothing of
//! models or galleries; the demo, the tests and the embedded model use it instead of people's biometrics.

mod details;
mod figure;
mod paint;
mod person;
mod render;
mod rng;
mod shape;
mod shot;

pub use person::Person;
pub use render::{RgbImage, render};
pub use shot::Shot;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Aspect, Side};

    #[test]
    #[ignore]
    fn sheet() {
        let n = 224_u32;
        let cols = 8_u32;
        let rows = 6_u32;
        let mut sheet = ::image::RgbImage::new(cols * n, rows * n);
        let start = std::time::Instant::now();
        for i in 0..cols * rows {
            let (r, c) = (i / cols, i % cols);
            let person = Person::new(5, u64::from(r * 2 + c / 4));
            let (aspect, side) = match c % 4 {
                0 => (Aspect::Dorsal, Side::Right),
                1 => (Aspect::Dorsal, Side::Left),
                2 => (Aspect::Palmar, Side::Right),
                _ => (Aspect::Palmar, Side::Left),
            };
            let img = render(&person, &Shot::draw(&person, aspect, side, 0), n);
            let img = ::image::RgbImage::from_raw(n, n, img.rgb).unwrap();
            ::image::imageops::replace(&mut sheet, &img, i64::from(c * n), i64::from(r * n));
        }
        println!("{} ms an image", start.elapsed().as_millis() as f64 / 48.0);
        sheet.save("/tmp/sheet.png").unwrap();
    }
}
