//! Audio in: decoding, resampling, segmentation. Knows nothing of the engine.
