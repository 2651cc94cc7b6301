import type { GuestRecipe } from '../recipe.ts';
import { amd } from './amd.ts';
import { riscv } from './riscv.ts';
import { smmuv3 } from './smmuv3.ts';
import { virtio } from './virtio.ts';
import { vtd } from './vtd.ts';

/** One line an IOMMU. */
export const recipes: readonly GuestRecipe[] = [vtd, virtio, amd, smmuv3, riscv];
