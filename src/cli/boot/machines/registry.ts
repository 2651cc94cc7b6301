import type { GuestRecipe } from '../recipe.ts';
import { vtd } from './vtd.ts';

/** One line an IOMMU. */
export const recipes: readonly GuestRecipe[] = [vtd];
