"""What every package uses: parameters, errors, files, parallel work, commands. Imports nothing of the project."""
