import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules"] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: {
        projectService: { allowDefaultProject: ["eslint.config.js"] },
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true },
      ],
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "@typescript-eslint/require-await": "off",
      "@typescript-eslint/consistent-type-imports": "error",
    },
  },
  {
    // What JSON is, a cast in a comment says, which this rule does not see.
    files: ["src/routes/playground/page/*.js"],
    rules: { "@typescript-eslint/no-unsafe-assignment": "off" },
  },
);
