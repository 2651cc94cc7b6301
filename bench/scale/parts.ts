/** What `npm run bench -- scale` sweeps, one name a part. */
export const SCALE_PARTS = ['spaces', 'mappings', 'size'] as const;

/** Targets whose spaces are swept; such a name asks for that part of `spaces` alone. */
export const SCALE_TARGETS = ['spapr', 'virtio-iommu', 'riscv', 'vtd', 'amd', 'smmuv3'] as const;
