export { type BlockBackend, FileBackend, MemoryBackend } from './block-backend.ts';
export { DmaEngine, ENGINE, ENGINE_DEVICE, ENGINE_MAGIC, ENGINE_VENDOR, EngineCommand, type EngineDma } from './dma-engine.ts';
export { type ByteStream, type NetworkBackend, StreamBackend } from './network-backend.ts';
export { VirtioBlock } from './virtio-block.ts';
export { VirtioEntropy } from './virtio-entropy.ts';
export { VirtioNetwork } from './virtio-network.ts';
