/** Labelled settings of the form, each with its problem below it. */
import type { ComponentChildren } from "preact";
import { set, fields } from "../state/form.ts";
import { RULES, type Fields } from "../state/fields.ts";
import { problems } from "../state/request.ts";

type TextName = { [K in keyof Fields]: Fields[K] extends string ? K : never }[keyof Fields];
type FlagName = Exclude<keyof Fields, TextName>;

/** Attributes that connect a control with its problem and its hint. */
export function describedBy(
  name: keyof Fields,
  hint = false,
): { "aria-invalid"?: true; "aria-describedby"?: string } {
  const ids = [hint && `${name}-hint`, problems.value[name] && `${name}-problem`].filter(Boolean);
  return {
    ...(problems.value[name] && { "aria-invalid": true as const }),
    ...(ids.length && { "aria-describedby": ids.join(" ") }),
  };
}

export function Problem({ name }: { name: keyof typeof problems.value }) {
  const problem = problems.value[name];
  return problem ? (
    <p class="problem" id={`${name}-problem`} role="alert">
      {problem}
    </p>
  ) : null;
}

interface FieldProps {
  name: keyof Fields;
  label: string;
  hint?: ComponentChildren;
  /** Whether the label is beside the control. */
  inline?: boolean;
  children: ComponentChildren;
}

export function Field({ name, label, hint, inline, children }: FieldProps) {
  return (
    <div class={inline ? "field inline" : "field"}>
      <label for={name}>{label}</label>
      {children}
      {hint && (
        <p class="hint" id={`${name}-hint`}>
          {hint}
        </p>
      )}
      <Problem name={name} />
    </div>
  );
}

interface NumberProps {
  name: TextName;
  label: string;
  /** Shown while the field is empty: the default. */
  usual?: number | string | undefined;
  step?: number;
  hint?: ComponentChildren;
  /** The range of the slider, if there is one. */
  slider?: [number, number];
}

/** A number; empty for the default. The slider is for pointers only: keys work in the box. */
export function NumberField({ name, label, usual, step = 1, hint, slider }: NumberProps) {
  const rule = RULES[name];
  const value = fields.value[name];
  const change = (event: Event) => set({ [name]: (event.currentTarget as HTMLInputElement).value });
  return (
    <Field name={name} label={label} hint={hint} inline={Boolean(slider)}>
      <div class="number">
        {slider && (
          <input
            type="range"
            tabIndex={-1}
            aria-hidden
            min={slider[0]}
            max={slider[1]}
            step={step}
            value={value || String(usual ?? slider[0])}
            onInput={change}
          />
        )}
        <input
          id={name}
          type="number"
          inputMode={step < 1 ? "decimal" : "numeric"}
          min={rule?.min}
          max={rule?.max}
          step={step < 1 ? "any" : step}
          placeholder={usual === undefined ? "" : String(usual)}
          value={value}
          onInput={change}
          {...describedBy(name, Boolean(hint))}
        />
      </div>
    </Field>
  );
}

interface SelectProps {
  name: TextName;
  label: string;
  hint?: ComponentChildren;
  children: ComponentChildren;
}

export function SelectField({ name, label, hint, children }: SelectProps) {
  return (
    <Field name={name} label={label} hint={hint}>
      <select
        id={name}
        value={fields.value[name]}
        onChange={(event) => set({ [name]: event.currentTarget.value })}
        {...describedBy(name, Boolean(hint))}
      >
        {children}
      </select>
    </Field>
  );
}

export function FlagField({ name, label, hint }: { name: FlagName; label: string; hint?: string }) {
  return (
    <div class="field flag">
      <label>
        <input
          id={name}
          type="checkbox"
          checked={fields.value[name]}
          onChange={(event) => set({ [name]: event.currentTarget.checked })}
          {...describedBy(name, Boolean(hint))}
        />
        <span>{label}</span>
      </label>
      {hint && (
        <p class="hint" id={`${name}-hint`}>
          {hint}
        </p>
      )}
      <Problem name={name} />
    </div>
  );
}
