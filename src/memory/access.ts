/** Permissions of a mapping and wishes of an access: the same bits, so that a check is one AND. */
export const READ = 1;
export const WRITE = 2;
export const READ_WRITE = 3;
/** Instruction fetch, where a format tells it from a read. */
export const EXECUTE = 4;
/** A privileged (supervisor) access, where a format tells it from a user access; never part of a permission. */
export const PRIVILEGED = 8;
/** The mapping reaches a device's registers, not RAM (virtio-iommu MAP_F_MMIO); never asked for by an access. */
export const MMIO = 16;
