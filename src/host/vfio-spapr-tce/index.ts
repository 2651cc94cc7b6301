export { TceHost, type TceRequirements } from './host.ts';
export { TceSpace } from './space.ts';
export type { TceWindow, WindowWish } from './windows.ts';
