import type { GuestMemory } from '../memory/guest-memory.ts';

/** What rings and buffers lie in: guest memory, or what a device behind an IOMMU reaches of it. Accessors answer as GuestMemory's do. */
export type QueueMemory = Pick<GuestMemory, 'word' | 'load64' | 'load16' | 'store64' | 'store32' | 'store16' | 'read' | 'write'>;
