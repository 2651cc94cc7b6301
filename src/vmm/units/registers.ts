import { requireObject } from '../../memory/arguments.ts';
import type { RegisterBlock } from '../pci/registers.ts';

/** Class of a function that is an IOMMU (PCI Code and ID Assignment 1.11, base class 08h). */
export const IOMMU_CLASS = 0x080600;

/** Counts what a guest does to a unit's registers. */
export interface RegisterCounts {
  reads: number;
  writes: number;
}

/** A unit's registers, counted, wherever a machine puts them. */
export function countedRegisters(unit: RegisterBlock, counts: RegisterCounts): RegisterBlock {
  requireObject('countedRegisters', 'unit', unit, 'RegisterBlock', ['read', 'write']);
  requireObject('countedRegisters', 'counts', counts);
  return {
    read: (offset, bytes) => {
      counts.reads++;
      return unit.read(offset, bytes);
    },
    write: (offset, bytes, value) => {
      counts.writes++;
      unit.write(offset, bytes, value);
    },
  };
}
